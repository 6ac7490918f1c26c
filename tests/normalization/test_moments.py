"""Moments against NumPy in float64, over every cut, and a model that stays as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from networks import cnn, images, inputs_of_batch_norms, moments_of, residual, scatter

from bnadapt.errors import DataError, ModelError, SurgeryError
from bnadapt.normalization.moments import Moments, batch_norm_layers, measure, merge
from bnadapt.normalization.policy import fingerprint


def moments(values: np.ndarray) -> Moments:
    return Moments(len(values), values.mean(0), values.var(0))


def single(axis: int = -1, shape: tuple = (4,), **settings) -> keras.Model:
    return keras.Sequential([keras.Input(shape), layers.BatchNormalization(axis=axis, name="bn", **settings)])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    st.floats(-1e4, 1e4),
    st.floats(1e-2, 1e3),
    st.randoms(use_true_random=False),
)
def test_merging_does_not_depend_on_cut_and_order(sizes, centre, spread, random):
    values = np.random.default_rng(sum(sizes)).normal(centre, spread, (sum(sizes), 3))
    parts = [part for part in np.split(values, np.cumsum(sizes)[:-1]) if len(part)]
    random.shuffle(parts)
    total = moments(parts[0])
    for part in parts[1:]:
        total = merge(total, moments(part))
    assert total.count == len(values)
    np.testing.assert_allclose(total.mean, values.mean(0), rtol=1e-12, atol=1e-9 * spread)
    np.testing.assert_allclose(total.variance, values.var(0), rtol=1e-8, atol=1e-9 * spread**2)


def test_merging_with_nothing_changes_nothing():
    some, nothing = moments(np.arange(6.0).reshape(3, 2)), Moments(0, np.zeros(2), np.zeros(2))
    for total in (merge(some, nothing), merge(nothing, some)):
        assert total.count == 3
        np.testing.assert_array_equal(total.mean, some.mean)
        np.testing.assert_array_equal(total.variance, some.variance)
    assert merge(nothing, nothing).count == 0


MODEL = cnn()
IMAGES = images(18)


@settings(max_examples=8, deadline=None)
@given(st.permutations([7, 7, 3, 1]), st.permutations(list(range(18))))
def test_moments_of_a_network_do_not_depend_on_cut_and_order(sizes, order):
    shuffled = IMAGES[np.array(order)]
    batches = np.split(shuffled, np.cumsum(sizes)[:-1])
    found = measure(MODEL, batches)
    for path, values in inputs_of_batch_norms(MODEL, IMAGES).items():
        mean, variance = moments_of(values)
        assert found[path].count == values.size // values.shape[-1]
        np.testing.assert_allclose(found[path].mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[path].variance, variance, rtol=1e-5)


@pytest.mark.parametrize(
    ("axis", "shape"),
    [(-1, (4,)), (-1, (5, 4)), (1, (4, 5)), (-1, (3, 5, 4)), (1, (4, 3, 5)), (2, (3, 4, 2, 2))],
)
def test_any_rank_and_axis(axis, shape):
    values = np.random.default_rng(0).normal(3, 2, (21, *shape)).astype("float32")
    found = measure(single(axis, shape), values, batch_size=8)["bn"]
    axes = tuple(each for each in range(len(shape) + 1) if each != axis % (len(shape) + 1))
    np.testing.assert_allclose(found.mean, values.astype("float64").mean(axes), rtol=1e-6)
    np.testing.assert_allclose(found.variance, values.astype("float64").var(axes), rtol=1e-6)
    assert found.count == values.size // 4
    assert found.mean.dtype == found.variance.dtype == np.float64


@pytest.mark.parametrize("ratio", [1e2, 1e3, 1e4])
def test_large_means_do_not_cancel(ratio):
    values = np.random.default_rng(0).normal(ratio, 1, (5000, 4)).astype("float32")
    found = measure(single(), values, batch_size=700)["bn"]
    np.testing.assert_allclose(found.variance, values.astype("float64").var(0), rtol=1e-6)
    np.testing.assert_allclose(found.mean, values.astype("float64").mean(0), rtol=1e-9)


def test_constant_channels_have_no_variance():
    found = measure(single(), np.full((9, 4), 1234.5, "float32"), batch_size=4)["bn"]
    np.testing.assert_array_equal(found.variance, np.zeros(4))
    np.testing.assert_array_equal(found.mean, np.full(4, 1234.5))


@pytest.mark.parametrize("samples", [1, 8, 13, 40, 99])
def test_the_budget_counts_samples(samples):
    found = measure(MODEL, [images(40)[:8], images(40)[8:40]], samples=samples)
    used = images(40)[:samples]
    assert found["hidden_inserted_bn"].count == len(used)
    mean, _ = moments_of(inputs_of_batch_norms(MODEL, used)["conv_inserted_bn"])
    np.testing.assert_allclose(found["conv_inserted_bn"].mean, mean, rtol=1e-4, atol=1e-6)


def test_all_kinds_of_input_give_the_same():
    array, labels = images(20), np.zeros(20, "int64")
    dataset = tf.data.Dataset.from_tensor_slices((array, labels)).batch(7)
    kinds = [
        array,
        dataset,
        dataset.map(lambda x, y: x),
        [array[:11], array[11:]],
        [(array, labels)],
        iter([array]),
    ]
    results = [measure(MODEL, each, batch_size=7)["conv_inserted_bn"] for each in kinds]
    for result in results[1:]:
        assert result.count == results[0].count
        np.testing.assert_allclose(result.variance, results[0].variance, rtol=1e-6)


def test_other_types_of_pixels_are_cast_as_keras_does():
    array = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 2), "uint8")
    whole, cast = measure(MODEL, array), measure(MODEL, array.astype("float32"))
    np.testing.assert_array_equal(whole["conv_inserted_bn"].mean, cast["conv_inserted_bn"].mean)


def test_dictionaries_of_inputs():
    i = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    model = keras.Model(i, layers.BatchNormalization(name="bn")(i["a"] - i["b"]))
    values = {"a": np.ones((5, 4), "float32"), "b": np.arange(20, dtype="float32").reshape(5, 4)}
    np.testing.assert_allclose(measure(model, values, batch_size=2)["bn"].mean, (1 - values["b"]).mean(0))
    np.testing.assert_allclose(measure(model, [(values, None)])["bn"].mean, (1 - values["b"]).mean(0))


def test_a_layer_called_twice_is_pooled_over_its_calls():
    norm = layers.BatchNormalization(name="bn")
    i = keras.Input((3,))
    inner = keras.Sequential([keras.Input((3,)), norm], name="inner")
    model = keras.Model(i, inner(i * 3.0) + inner(i))
    values = np.random.default_rng(0).normal(1, 1, (10, 3)).astype("float32")
    found = measure(model, values)["inner/bn"]
    both = np.concatenate([values, values * 3])
    assert found.count == 20
    np.testing.assert_allclose(found.variance, both.var(0), rtol=1e-5)


def test_masked_positions_do_not_count():
    i = keras.Input((5,), dtype="int32")
    embed = layers.Embedding(7, 4, mask_zero=True)
    model = keras.Model(i, layers.BatchNormalization(name="bn")(embed(i)))
    words = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 1], [0, 0, 0, 0, 0]], "int32")
    found = measure(model, words, batch_size=1)["bn"]
    values = keras.ops.convert_to_numpy(embed.embeddings)[words[words > 0]].astype("float64")
    assert found.count == len(values) == 7
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.variance, values.var(0), rtol=1e-5)


def test_mixed_precision_is_reduced_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        i = keras.Input((4,))
        model = keras.Model(i, layers.BatchNormalization(name="bn")(layers.Identity()(i)))
    finally:
        keras.config.set_dtype_policy("float32")
    values = np.random.default_rng(0).normal(300, 1, (9000, 4)).astype("float16")
    found = measure(model, values)["bn"]
    np.testing.assert_allclose(found.variance, values.astype("float64").var(0), rtol=1e-5)


def test_batch_mode_normalizes_with_each_batch():
    """Against the same pass written with Keras' own layer in training mode."""
    model = residual()
    batches = [images(16), images(9, seed=1), images(16, seed=2)]
    found = measure(model, batches, normalize_with="batch")
    copy = residual()
    norms = [copy.get_layer(name) for name in ("bn1", "bn2")]
    probe = keras.Model(copy.inputs, [layer.input for layer in norms])
    values = [
        [keras.ops.convert_to_numpy(v).astype("float64") for v in probe(b, training=True)] for b in batches
    ]
    for path, parts in zip(("bn1", "bn2"), zip(*values, strict=True), strict=True):
        mean, variance = moments_of(np.concatenate(parts))
        np.testing.assert_allclose(found[path].mean, mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[path].variance, variance, rtol=1e-4)
    moving = measure(model, batches)
    assert np.abs(moving["bn2"].mean - found["bn2"].mean).max() > 0.1
    np.testing.assert_allclose(moving["bn1"].mean, found["bn1"].mean)


def test_batch_mode_leaves_what_is_not_measured_at_its_moving_statistics():
    model = residual()
    found = measure(model, images(16), "bn2", normalize_with="batch")
    moving = measure(model, images(16), "bn2")
    np.testing.assert_allclose(found["bn2"].mean, moving["bn2"].mean)


@pytest.mark.parametrize("mode", ["moving", "batch"])
def test_the_model_stays_exactly_as_it_was(mode):
    model = cnn()
    model.get_layer("hidden").activity_regularizer = keras.regularizers.L2(0.1)
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    flags = [v.trainable for v in model.variables]
    measure(model, images(9), normalize_with=mode)

    def failing():
        yield images(4)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        measure(model, failing(), normalize_with=mode)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert [v.trainable for v in model.variables] == flags
    assert all(tf.is_tensor(loss) and hasattr(loss, "numpy") for loss in model.losses)


def test_nothing_and_nonsense_are_refused():
    with pytest.raises(DataError, match="no images to measure"):
        measure(MODEL, [])
    poisoned = images(8)
    poisoned[3, 0, 0, 0] = np.nan
    with pytest.raises(ModelError, match="'conv_inserted_bn' is not finite"):
        measure(MODEL, poisoned)
    with pytest.raises(SurgeryError, match="normalize_with='train': choose moving or batch"):
        measure(MODEL, images(8), normalize_with="train")


def test_layers_are_named_by_path_name_or_pattern():
    assert list(batch_norm_layers(MODEL)) == ["conv_inserted_bn", "conv2_inserted_bn", "hidden_inserted_bn"]
    assert list(batch_norm_layers(MODEL, "conv.*")) == ["conv_inserted_bn", "conv2_inserted_bn"]
    assert list(batch_norm_layers(MODEL, ["hidden_inserted_bn", "conv_.*"])) == [
        "conv_inserted_bn",
        "hidden_inserted_bn",
    ]
    with pytest.raises(
        SurgeryError, match="'dense' matches no batch normalization layer; there are: conv_inserted"
    ):
        batch_norm_layers(MODEL, "dense")
    with pytest.raises(SurgeryError, match="has no batch normalization: insert some first"):
        batch_norm_layers(keras.Sequential([keras.Input((2,)), layers.Dense(2)]))


def test_measuring_scattered_networks_is_not_measuring_fresh_ones():
    model = cnn()
    scatter(model)
    before = fingerprint(model)
    assert not np.allclose(
        measure(model, IMAGES)["hidden_inserted_bn"].mean, measure(MODEL, IMAGES)["hidden_inserted_bn"].mean
    )
    assert fingerprint(model) == before
