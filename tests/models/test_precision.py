"""Networks in 16 bits: what computes in them, what stays in 32, and what is refused."""

from pathlib import Path

import keras
import numpy as np
import pytest

from bnadapt.config import ModelSettings
from bnadapt.errors import ModelError
from bnadapt.models.build import build
from bnadapt.models.fit_to_data import fit_to_data
from bnadapt.models.precision import with_precision
from bnadapt.normalization.statistics import calibrate
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import find_sites

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 9, 8, 4)).astype("float32")
PRECISIONS = ["mixed_float16", "mixed_bfloat16"]


def policies(network: keras.Model) -> dict[str, str]:
    return {layer.name: layer.dtype_policy.name for layer in network.layers}


def outputs_of(network: keras.Model) -> np.ndarray:
    return np.asarray(network(IMAGES, training=False))


def user_network() -> keras.Model:
    """A network such as users bring: nested, with a shared layer, a residual connection and a layer in a wrapper."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    images = keras.Input((9, 8, 4))
    scaled = layers.Rescaling(1 / 255, name="scale")(images)
    maps = layers.Input((9, 8, 4))
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    body = keras.Model(maps, layers.Add(name="add")([shared(shared(maps)), maps]), name="body")
    features = layers.BatchNormalization(name="own")(body(scaled))
    features = layers.TimeDistributed(layers.Dense(3, name="inner"), name="wrapped")(features)
    features = layers.GlobalAveragePooling2D(name="pool")(features)
    scores = layers.Dense(5, name="scores")(layers.Dropout(0.2, name="drop")(features))
    return keras.Model(images, layers.Softmax(name="softmax")(scores))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_what_is_built_computes_in_16_bits_up_to_the_head(kind: str, precision: str) -> None:
    settings = ModelSettings(kind=kind, widths=[6], filters=[3], dense=4, dropout=0.1, precision=precision)
    network = build(settings, (9, 8, 4), 3)
    found = policies(network)
    assert {found[name] for name in ("images", "rescaling", "head")} == {"float32"}
    assert {policy for name, policy in found.items() if name not in ("images", "rescaling", "head")} == {
        precision
    }
    assert network.output.dtype == "float32"
    assert {weight.dtype for weight in network.weights} == {"float32"}


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_what_is_built_computes_in_32_bits_else(precision: str) -> None:
    assert set(policies(build(ModelSettings(precision=precision), (8, 8, 1), 3)).values()) == {"float32"}


@pytest.mark.fault(
    "odd: mixed precision, batch normalization inserted",
    "the outputs stay; statistics in 32 bits",
)
@pytest.mark.parametrize(
    ("precision", "position"),
    [("mixed_float16", "before_activation"), ("mixed_bfloat16", "after_activation")],
)
def test_inserted_batch_normalization_changes_nothing_and_keeps_its_statistics_in_32_bits(
    precision: str, position: str, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(1)
    settings = ModelSettings(kind="cnn", filters=[6], dense=8, precision=precision)
    before = build(settings, (9, 8, 4), 3)
    after = insert_batch_norm(before, find_sites(before, position, on_input=True))
    calibrate(after, IMAGES, layers=".*_inserted_bn")
    np.testing.assert_array_equal(outputs_of(after), outputs_of(before))
    inserted = [each for each in after.layers if isinstance(each, keras.layers.BatchNormalization)]
    assert [each.dtype_policy.name for each in inserted] == ["float32", precision, precision]
    assert {weight.dtype for each in inserted for weight in each.weights} == {"float32"}
    assert all(float(np.ptp(each.moving_mean)) > 0 for each in inserted)
    after.save(tmp_path / "best.keras")
    kept = keras.saving.load_model(tmp_path / "best.keras")
    assert policies(kept) == policies(after)
    np.testing.assert_array_equal(outputs_of(kept), outputs_of(before))


@pytest.mark.parametrize(("precision", "tolerance"), [("mixed_float16", 2e-3), ("mixed_bfloat16", 2e-2)])
def test_a_network_of_the_users_is_converted(precision: str, tolerance: float, tmp_path: Path) -> None:
    given = user_network()
    converted, notes = with_precision(given, precision)
    assert notes == (f"6 of its 9 layers now compute in {precision}",)
    assert policies(converted.get_layer("body"))["shared"] == precision
    found = policies(converted)
    assert {found[name] for name in ("scale", "scores", "softmax")} == {"float32"}
    assert {found[name] for name in ("own", "wrapped", "pool", "drop")} == {precision}
    assert converted.get_layer("wrapped").layer.compute_dtype == precision.removeprefix("mixed_")
    assert converted.get_layer("pool").output.dtype == precision.removeprefix("mixed_")
    for new, old in zip(converted.weights, given.weights, strict=True):
        assert new.dtype == "float32"
        np.testing.assert_array_equal(new, old)
    outputs = outputs_of(converted)
    np.testing.assert_allclose(outputs, outputs_of(given), atol=tolerance)
    assert np.abs(outputs - outputs_of(given)).max() > 0  # it does compute in 16 bits
    assert set(policies(given).values()) == {"float32"}
    converted.save(tmp_path / "network.keras")
    kept = keras.saving.load_model(tmp_path / "network.keras")
    assert policies(kept) == found
    back, _ = with_precision(kept, "float32")
    np.testing.assert_array_equal(outputs_of(back), outputs_of(given))


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_network_that_has_the_precision_is_left_alone(precision: str) -> None:
    given = user_network()
    assert with_precision(given, precision) == (given, ())


def test_a_head_that_was_put_on_stays_in_32_bits() -> None:
    images = keras.Input((9, 8, 4))
    features = keras.layers.Conv2D(3, 3, name="conv")(images)
    fitted = fit_to_data(keras.Model(images, features), (9, 8, 4), 4).network
    found = policies(with_precision(fitted, "mixed_bfloat16")[0])
    assert found["head"] == "float32"
    assert found["conv"] == "mixed_bfloat16"


def test_weights_in_16_bits_are_refused() -> None:
    rows = keras.Input((4,))
    half = keras.Model(rows, keras.layers.Dense(2)(keras.layers.Dense(3, dtype="float16", name="half")(rows)))
    with pytest.raises(
        ModelError,
        match=r"model.precision=mixed_bfloat16 needs weights in float32, and the layer 'half' keeps 'kernel' in "
        r"float16: model.precision=auto takes the network as it is",
    ):
        with_precision(half, "mixed_bfloat16")


def test_a_layer_that_forgets_its_precision_is_refused() -> None:
    @keras.saving.register_keras_serializable("tests")
    class Forgetful(keras.layers.Dense):
        def get_config(self) -> dict:
            return {name: value for name, value in super().get_config().items() if name != "dtype"}

    rows = keras.Input((4,))
    network = keras.Model(rows, keras.layers.Dense(2)(Forgetful(3, name="mine")(rows)))
    with pytest.raises(
        ModelError,
        match=r"model.precision=mixed_float16: the layer 'mine' \(Forgetful\) stays at float32, because its get_config "
        r"leaves out dtype",
    ):
        with_precision(network, "mixed_float16")


@pytest.mark.fault(
    "odd: numbers that 16 bits cannot hold",
    "refused",
)
def test_numbers_beyond_16_bits_are_refused() -> None:
    images = keras.Input((9, 8, 4))
    large = keras.layers.Conv2D(3, 3, kernel_initializer=keras.initializers.Constant(100.0))(images)
    network = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(large)))
    with pytest.raises(
        ModelError, match=r"no longer finite .* take model.precision=mixed_bfloat16 or float32"
    ):
        with_precision(network, "mixed_float16")
    assert with_precision(network, "mixed_bfloat16")[1]


def test_what_surgery_refuses_is_refused_by_the_settings_name() -> None:
    class Mine(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ModelError, match=r"^model.precision=mixed_float16: "):
        with_precision(Mine(), "mixed_float16")
