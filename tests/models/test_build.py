"""Plain networks: their layers, their range of pixels, and that images of any size go through."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris

from bnadapt.config import ModelSettings
from bnadapt.errors import DataError, ModelError
from bnadapt.models.build import build, row_statistics

ROWS = load_iris().data.astype("float32")


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


def for_rows(rows: np.ndarray, **changes: object) -> keras.Model:
    return build(ModelSettings(widths=[6], **changes), rows.shape[1:], 3, lambda: np.array_split(rows, 4))


def test_a_network_for_rows_standardizes_them_by_the_training_rows() -> None:
    network = for_rows(ROWS)
    assert names(network) == ["rows", "normalization", "dense1", "head"]
    standardized = keras.Model(network.inputs, network.get_layer("normalization").output).predict(
        ROWS, verbose=0
    )
    np.testing.assert_allclose(standardized.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(standardized.std(axis=0), 1, atol=1e-5)
    assert not network.get_layer("normalization").weights  # constants: nothing that training could move


def test_a_constant_column_gives_zeros_and_a_test_row_that_differs_stays_finite() -> None:
    rows = np.c_[ROWS, np.full(len(ROWS), 0.1, "float32")]
    network = for_rows(rows)
    scaled = keras.Model(network.inputs, network.get_layer("normalization").output)
    np.testing.assert_allclose(scaled.predict(rows, verbose=0)[:, 4], 0, atol=1e-6)
    rows[0, 4] = 3.1
    np.testing.assert_allclose(scaled.predict(rows, verbose=0)[0, 4], 3, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 50), st.integers(1, 7), st.sampled_from([0.0, 1e6]), st.integers(0, 2**32 - 1))
def test_means_and_variances_do_not_depend_on_the_batches(
    count: int, parts: int, offset: float, seed: int
) -> None:
    rows = np.random.default_rng(seed).normal(offset, 3, (count, 2)).astype("float32")
    mean, variance = row_statistics(np.array_split(rows, min(parts, count)), 2)
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype="float64"))
    exact = rows.var(axis=0, dtype="float64")
    np.testing.assert_allclose(variance, np.where(exact > (1e-6 * mean) ** 2, exact, 1))


@pytest.mark.parametrize("scale", [1e-9, 1e25])
def test_a_column_that_32_bits_cannot_normalize_is_named(scale: float) -> None:
    rows = ROWS * np.array([1, scale, 1, 1], "float32")
    with pytest.raises(
        DataError, match=r"column 2 of the rows has a standard deviation of \d.* in another unit"
    ):
        for_rows(rows)


def test_convolutions_of_rows_are_refused() -> None:
    with pytest.raises(
        ModelError, match="model=cnn takes images, and these data are rows of 4 numbers: take model=mlp"
    ):
        for_rows(ROWS, kind="cnn")


def test_rows_are_not_asked_for_where_there_are_images() -> None:
    build(ModelSettings(), (4, 4, 1), 3, lambda: pytest.fail("images need no statistics"))
