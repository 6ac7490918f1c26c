"""Pixel ranges made part of the network."""

import keras
import numpy as np
import pytest
from keras import layers
from zoo import ZOO, outputs

from bnadapt.errors import SurgeryError
from bnadapt.normalization.proof import fingerprint
from bnadapt.surgery.preprocess import with_rescaling


@pytest.mark.parametrize("name", ["sequential", "residual", "sequential_of_models", "mixed_precision"])
@pytest.mark.parametrize("bounds", [(-1, 1), (0, 1)])
def test_the_network_sees_the_range_that_it_was_made_for(name, bounds):
    each = ZOO[name]()
    lowest, highest = bounds
    images = np.random.default_rng(0).integers(0, 256, each.inputs.shape).astype("float32")
    result = with_rescaling(each.model, bounds)
    expected = outputs(each.model, images * np.float32((highest - lowest) / 255) + np.float32(lowest))
    np.testing.assert_allclose(outputs(result, images)[0], expected[0], rtol=1e-6, atol=1e-6)
    assert fingerprint(result) == fingerprint(each.model)
    assert type(result) is type(each.model)
    assert result.layers[-1].name == each.model.layers[-1].name


def test_the_range_of_pixels_needs_nothing():
    model = ZOO["sequential"]().model
    assert with_rescaling(model, (0, 255)) is model


def test_names_do_not_clash():
    i = keras.Input((4, 4, 1), name="rescaling")
    model = keras.Model(i, layers.Flatten()(layers.Rescaling(2.0, name="rescaling_1")(i)))
    result = with_rescaling(model, (0, 1))
    assert [layer.name for layer in result.layers][:3] == ["rescaling", "rescaling_2", "rescaling_1"]


def test_bad_ranges_and_several_inputs_are_refused():
    with pytest.raises(SurgeryError, match=r"input_range=\[1, 1\]: give the lowest and the highest"):
        with_rescaling(ZOO["sequential"]().model, (1, 1))
    with pytest.raises(SurgeryError, match="needs a network with one input; this one has 2"):
        with_rescaling(ZOO["dictionaries"]().model, (0, 1))
