"""Scores of a network on a split, and what may be concluded from them."""
