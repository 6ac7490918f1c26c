"""A search for better settings with Optuna, scored on the validation images alone."""

from bnadapt.search.run import run_search

__all__ = ["run_search"]
