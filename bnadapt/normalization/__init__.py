"""What batch normalization knows of the data, and what of a network may move while it trains."""
