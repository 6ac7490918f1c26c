"""Where the random numbers of a fit come from."""

import keras
import numpy as np


def seed_generators(network: keras.Model, seed: int) -> None:
    """Set every seed generator of a network, as dropout has one, to a state that depends on the seed alone.

    So a stage draws the same numbers whether the network was loaded from a file or has trained before in the same
    process. Changes those states and nothing else. What draws without a generator of its own, as no layer of Keras
    does, is not covered.

    Args:
        network: Any network.
        seed: Of the fit.
    """
    weights = {id(each) for each in network.weights}
    states = [each for each in network.variables if id(each) not in weights]
    for number, state in enumerate(states):
        (drawn,) = np.random.SeedSequence([seed, number]).generate_state(1)
        # Keras keeps [seed, how often it was asked]; below 2**31 the seed fits whichever type it keeps it in.
        state.assign(np.array([drawn >> 1, 0], keras.backend.standardize_dtype(state.dtype)))
