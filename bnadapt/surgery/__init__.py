"""Look at a Keras network and rewrite it: where batch normalization goes, insertion, folding, heads, input ranges."""
