"""One fit for every stage, so that freezing, statistics and logging are right in one place."""
