"""Networks without batch normalization: built from settings, or loaded and fitted to the data."""
