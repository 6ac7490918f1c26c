"""The tables and plots that a person looks at."""
