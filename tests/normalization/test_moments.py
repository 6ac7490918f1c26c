"""Moments against NumPy in float64, over every cut, and a model that stays as it was."""

import functools
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from networks import (
    cnn,
    hidden_norm,
    images,
    infer,
    inputs_of_batch_norms,
    masked,
    moments_of,
    residual,
    scatter,
    table,
    two_inputs,
)

from bnadapt.errors import DataError, ModelError, SurgeryError
from bnadapt.normalization.moments import Moments, measure, merge
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.selection import batch_norm_layers


def moments(values: np.ndarray) -> Moments:
    return Moments(len(values), values.mean(0), values.var(0), len(values))


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
    some, nothing = moments(np.arange(6.0).reshape(3, 2)), Moments(0, np.zeros(2), np.zeros(2), 0)
    for total in (merge(some, nothing), merge(nothing, some)):
        assert total.count == 3
        np.testing.assert_array_equal(total.mean, some.mean)
        np.testing.assert_array_equal(total.variance, some.variance)
    assert merge(nothing, nothing).count == 0


MODEL = cnn()
IMAGES = images(18)


@settings(max_examples=5, deadline=None)
@given(st.permutations([7, 7, 3, 1]), st.permutations(list(range(18))))
def test_moments_of_a_network_do_not_depend_on_cut_and_order(sizes, order):
    shuffled = IMAGES[np.array(order)]
    batches = np.split(shuffled, np.cumsum(sizes)[:-1])
    found = measure(MODEL, batches)
    for path, values in inputs_of_batch_norms(MODEL, IMAGES).items():
        mean, variance = moments_of(values)
        assert found[path].count == values.size // values.shape[-1]
        assert found[path].samples == 18
        np.testing.assert_allclose(found[path].mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[path].variance, variance, rtol=1e-5)


SHAPES = [(-1, (4,)), (-1, (5, 4)), (1, (4, 5)), (-1, (3, 6, 4)), (1, (4, 3, 5)), (2, (3, 4, 2, 2))]


@functools.cache
def one_norm(axis: int, shape: tuple, kind: str, masked: bool) -> keras.Model:
    i = keras.Input(shape, dtype="float64" if kind == "float64" else "float32")
    norm = layers.BatchNormalization(axis=axis, name="bn", dtype=kind)
    if not masked:
        return keras.Model(i, norm(i))
    mask = keras.Input(shape[:-1], dtype="bool")
    return keras.Model([i, mask], norm(i, mask=mask))


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from(["float32", "float64", "mixed_float16"]),
    st.booleans(),
    st.permutations([7, 7, 3, 1]),
    st.floats(-100, 100),
    st.integers(0, 2**20),
)
def test_any_cut_rank_axis_type_and_mask(place, kind, masked, sizes, centre, seed):
    axis, shape = place
    masked = masked and axis == -1 and len(shape) > 1  # Keras' masks leave out the last axis
    random = np.random.default_rng(seed)
    values = random.normal(centre, 3, (18, *shape)).astype("float64" if kind == "float64" else "float32")
    values[..., 0] *= 1e-3
    mask = random.random((18, *shape[:-1])) < 0.7
    cuts = np.cumsum(sizes)[:-1]
    parts = list(zip(np.split(values, cuts), np.split(mask, cuts), strict=True))
    batches = [list(each) for each in parts] if masked else [part for part, _ in parts]
    found = measure(one_norm(axis, shape, kind, masked), batches)["bn"]
    if kind == "mixed_float16":
        values = values.astype("float16")
    rows = np.moveaxis(values.astype("float64"), axis, -1).reshape(-1, 4)
    rows = rows[mask.reshape(-1)] if masked else rows
    assert (found.count, found.samples) == (len(rows), 18)
    assert found.mean.dtype == found.variance.dtype == np.float64
    precision = 1e-12 if kind == "float64" else 2e-6
    np.testing.assert_allclose(found.mean, rows.mean(0), atol=precision * rows.std(0).max())
    np.testing.assert_allclose(found.variance, rows.var(0), rtol=precision, atol=1e-12)


def test_sums_of_many_positions_stay_exact():
    """One running sum in float32 over so many positions would miss the variance by a few times 1e-4."""
    values = np.random.default_rng(0).exponential(1, (64, 56, 56, 4)).astype("float32") ** 2
    found = measure(single(-1, (56, 56, 4)), values)["bn"]
    np.testing.assert_allclose(found.variance, values.astype("float64").var((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.mean, values.astype("float64").mean((0, 1, 2)), rtol=1e-6)


def test_values_under_a_mask_may_be_anything():
    values = np.random.default_rng(0).normal(0, 1, (6, 5, 4)).astype("float32")
    mask = np.ones((6, 5), bool)
    mask[:, 3:] = False
    values[:, 3:] = np.inf
    found = measure(one_norm(-1, (5, 4), "float32", True), [[values, mask]])["bn"]
    np.testing.assert_allclose(found.variance, values[:, :3].astype("float64").var((0, 1)), rtol=1e-6)


def test_no_more_than_two_batches_live_at_once():
    alive = []

    def batches():
        for number in range(12):
            batch = Batch((8, 8, 8, 2))
            batch[:] = number
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            assert sum(reference() is not None for reference in alive) <= 2

    assert measure(MODEL, batches())["conv_inserted_bn"].samples == 96
    assert len(alive) == 12


class Batch(np.ndarray):
    """An array that can be watched while it lives."""


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
    assert found["hidden_inserted_bn"].count == found["hidden_inserted_bn"].samples == len(used)
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
    assert (found.count, found.samples) == (20, 10)
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


def test_masks_go_on_behind_a_layer_that_normalizes_with_the_batch():
    i = keras.Input((5,), dtype="int32")
    embed = layers.Embedding(7, 4, mask_zero=True)
    first = layers.BatchNormalization(name="first")(embed(i))
    model = keras.Model(i, layers.BatchNormalization(name="second")(first))
    words = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 1]], "int32")
    found = measure(model, words, normalize_with="batch")
    assert (found["first"].count, found["second"].count) == (7, 7)
    np.testing.assert_allclose(found["second"].mean, np.zeros(4), atol=1e-6)


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


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("settings", [{}, {"scale": False}, {"center": False}, {"epsilon": 0.1}])
def test_batch_mode_passes_on_what_keras_computes_in_training(axis, settings):
    i = keras.Input((4, 6, 4))
    norm = layers.BatchNormalization(axis=axis, name="bn", **settings)
    model = keras.Model(i, layers.BatchNormalization(name="after")(layers.ReLU()(norm(i))))
    scatter(model)
    values = np.random.default_rng(0).normal(2, 3, (9, 4, 6, 4)).astype("float32")
    found = measure(model, values, normalize_with="batch")["after"]
    expected = np.maximum(keras.ops.convert_to_numpy(norm(values, training=True)), 0).astype("float64")
    mean, variance = moments_of(expected)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-5)


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
    with pytest.raises(DataError, match="samples=0: must be a whole number, at least 1, or None for all"):
        measure(MODEL, images(8), samples=0)
    for size in (0, 2.5, "all", True):
        with pytest.raises(DataError, match=f"batch_size={size!r}: must be a whole number, at least 1"):
            measure(MODEL, images(8), batch_size=size)
    for samples in (7.5, "some", -1, True):
        with pytest.raises(DataError, match=f"samples={samples!r}: must be a whole number"):
            measure(MODEL, images(8), samples=samples)
    assert measure(MODEL, images(8), samples="all", batch_size=np.int64(3))["conv_inserted_bn"].samples == 8
    for wrong in (None, 3, "images"):
        with pytest.raises(DataError, match=f"images={wrong!r}: pass an array"):
            measure(MODEL, wrong)


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


def test_finite_values_without_a_finite_variance_are_said_to_be_so():
    with pytest.raises(
        ModelError, match=r"the input of the batch normalization 'bn' reaches 1e\+25 for some"
    ):
        measure(single(), np.array([[1e25] * 4, [-1e25] * 4], "float32"))
    with pytest.raises(ModelError, match="'bn' is not finite for some images"):
        measure(single(), np.array([[1e25] * 4, [np.inf] * 4], "float32"))


def by_formula(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (first.astype("float64") * 10 + second).mean(0)


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_dictionaries_are_looked_up_by_key(structure):
    model, first, second = two_inputs(structure), table(9), table(9, seed=1)
    extra = {"zz": np.zeros((9, 1), "float32")}
    for inputs in (
        {"z_first": first, "a_second": second},
        {"a_second": second, "z_first": first} | extra,
        [{"a_second": second, "z_first": first}],
    ):
        np.testing.assert_allclose(measure(model, inputs, batch_size=4)["bn"].mean, by_formula(first, second))
        if isinstance(inputs, dict):
            np.testing.assert_allclose(
                infer(model, inputs), infer(model, {key: inputs[key] for key in ("z_first", "a_second")})
            )
    with pytest.raises(
        DataError, match="takes a dictionary with the keys 'a_second', 'z_first'; received 'b', 'c'"
    ):
        measure(model, {"b": first, "c": second})
    with pytest.raises(DataError, match="keys 'a_second', 'z_first'; received 'z_first'"):
        measure(model, [{"z_first": first}])


def test_keys_that_keras_would_mix_up_are_refused():
    model, first, second = two_inputs("dict"), table(9), table(9, seed=1)
    given = {"z_first": first, "b": first, "a_second": second}
    with pytest.raises(DataError, match="received 'a_second', 'b', 'z_first': Keras would mix the values up"):
        measure(model, given)
    with pytest.raises(DataError, match="received a list: pass a dictionary"):
        measure(model, [first, second])


def test_a_wrong_key_for_a_single_input_is_refused():
    with pytest.raises(
        DataError, match="takes a dictionary with the keys 'keras_tensor'; received 'picture'"
    ):
        measure(MODEL, {"picture": images(8)})


def test_several_inputs_come_as_predict_takes_them():
    model, first, second = two_inputs(), table(9), table(9, seed=1)
    batches = tf.data.Dataset.from_tensor_slices((first, second)).batch(4)
    for inputs in (
        [first, second],
        (first, second),
        [[first, second]],
        [([first, second], np.zeros(9))],
        [((first[:5], second[:5]),), ((first[5:], second[5:]),)],
        batches.map(lambda a, b: ((a, b),)),
    ):
        found = measure(model, inputs, batch_size=4)["bn"]
        np.testing.assert_allclose(found.mean, by_formula(first, second), rtol=1e-5)
        assert found.samples == 9
    with pytest.raises(
        DataError, match=r"takes 2 inputs, and of a batch that is a tuple only the first part"
    ):
        measure(model, batches)
    with pytest.raises(DataError, match=r"takes 2 inputs \(z_first, a_second\); received 1 input$"):
        measure(model, first)
    with pytest.raises(DataError, match=r"takes 1 input \(.*\); received 2 inputs"):
        measure(MODEL, [[images(8), images(8)]])


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("structure", ["list", "dict"])
def test_inputs_of_unequal_length_are_refused(structure, batched):
    given = {"z_first": table(9), "a_second": table(8)}
    with pytest.raises(DataError, match=r"the same number of rows; received: .*'z_first' 9"):
        measure(two_inputs(structure), [given] if batched else given)


def test_single_images_are_no_batches():
    for unbatched in (
        list(images(3)),
        tf.data.Dataset.from_tensor_slices((images(3), np.zeros(3))),
        images(1)[0],
    ):
        with pytest.raises(
            DataError,
            match=r"takes batches of shape \(any, 8, 8, 2\), received one of shape \(8, 8, 2\): single",
        ):
            measure(MODEL, unbatched)
    with pytest.raises(DataError, match=r"received one of shape \(3, 8, 8, 3\)$"):
        measure(MODEL, np.zeros((3, 8, 8, 3), "float32"))
    grey = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.GlobalAveragePooling2D(), layers.BatchNormalization()]
    )
    assert measure(grey, np.zeros((3, 8, 8), "float32"))
    with pytest.raises(DataError, match=r"received one of shape \(8, 8, 1\): single images"):
        measure(grey, list(np.zeros((3, 8, 8, 1), "float32")))


def test_masked_positions_alone_are_no_data():
    values = np.zeros((3, 5, 4), "float32")
    with pytest.raises(DataError, match="the batch normalization 'bn' received masked positions only"):
        measure(masked(), values)
    values[0, 0] = 2
    assert measure(masked(), values)["bn"].count == 1


def test_an_empty_or_senseless_choice_of_layers_is_refused():
    for wrong in ([], (), 3, [None]):
        with pytest.raises(SurgeryError, match=r"layers=.*: name at least one batch normalization layer"):
            measure(MODEL, images(8), layers=wrong)


def test_batch_normalization_that_is_not_opened_is_named():
    with pytest.raises(
        SurgeryError, match="can be reached: 'steps/inner' is inside a TimeDistributed, which is not opened"
    ):
        batch_norm_layers(hidden_norm(alone=True))
    assert list(batch_norm_layers(hidden_norm())) == ["seen"]
    with pytest.raises(
        SurgeryError, match=r"'inner' matches .* there are: seen; 'steps/inner' is inside a Time"
    ):
        batch_norm_layers(hidden_norm(), "inner")
