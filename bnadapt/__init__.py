"""bnadapt adapts Keras networks to new data sets through batch normalization."""
