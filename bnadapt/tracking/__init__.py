"""Runs recorded in MLflow: one run per pipeline, a child run per stage.

Call :func:`bnadapt.tracking.environment.prepare_environment` before any other module of this package is
imported: MLflow reads its environment when it is imported.
"""
