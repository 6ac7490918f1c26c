"""Plain networks: their layers, their range of pixels, and that images of any size go through."""

import keras
import numpy as np
import pytest

from bnadapt.config import ModelSettings
from bnadapt.models.build import build


def names(network: keras.Model) -> list[str]:
    return [layer.name for layer in network.layers]


def test_an_mlp_has_a_dense_layer_for_each_width() -> None:
    network = build(ModelSettings(kind="mlp", widths=[12, 7]), (8, 8, 1), 5)
    assert names(network) == ["images", "rescaling", "flatten", "dense1", "dense2", "head"]
    assert network.count_params() == 64 * 12 + 12 + 12 * 7 + 7 + 7 * 5 + 5


def test_a_cnn_has_a_block_for_each_number_of_filters_and_one_dense_layer() -> None:
    network = build(ModelSettings(kind="cnn", filters=[4, 6], dense=9), (9, 8, 3), 5)
    assert names(network)[2:] == ["conv1", "pool1", "conv2", "pool2", "flatten", "dense", "head"]
    assert network.get_layer("pool2").output.shape == (None, 3, 2, 6)


def test_dropout_stands_before_the_head() -> None:
    assert names(build(ModelSettings(dropout=0.5), (8, 8, 1), 5))[-2:] == ["dropout", "head"]


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 4), (28, 28, 1)])
def test_images_of_any_size_become_probabilities(kind: str, shape: tuple[int, int, int]) -> None:
    network = build(ModelSettings(kind=kind, widths=[4], filters=[2, 2, 2], dense=4), shape, 3)
    images = np.random.default_rng(0).integers(0, 256, (5, *shape)).astype("float32")
    probabilities = np.asarray(network(images))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_there_is_no_batch_normalization() -> None:
    for kind in ("mlp", "cnn"):
        network = build(ModelSettings(kind=kind), (8, 8, 1), 3)
        assert not [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
