"""Several ways to go on from one baseline, compared: arms, repetitions, one choice, one look at the test images."""
