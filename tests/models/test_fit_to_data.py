"""Networks of a user's own: what is replaced, what is kept, and what is refused with which words."""

import keras
import numpy as np
import pytest

from bnadapt.errors import ModelError
from bnadapt.models.fit_to_data import fit_to_data, input_shape, returns_probabilities, with_pixels

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype("float32")


def network(*last: keras.Layer) -> keras.Model:
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu", name="conv"), *last]
    )


def classifier(classes: int, activation: str | None = "softmax") -> keras.Model:
    return network(keras.layers.Flatten(), keras.layers.Dense(classes, activation=activation, name="scores"))


def test_a_head_that_fits_is_kept() -> None:
    given = classifier(3)
    fitted = fit_to_data(given, (8, 8, 1), 3)
    assert fitted.network is given
    assert (fitted.new_head, fitted.notes) == (None, ())


def test_unless_a_new_one_is_asked_for() -> None:
    fitted = fit_to_data(classifier(3), (8, 8, 1), 3, always_new_head=True)
    assert fitted.new_head == "scores"
    assert fitted.notes == ("new head 'scores' with 3 classes (as model.head=new asks)",)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_another_number_of_classes_gets_a_new_head_of_the_same_kind(activation: str | None) -> None:
    given = classifier(3, activation)
    fitted = fit_to_data(given, (8, 8, 1), 5)
    assert fitted.network.output_shape == (None, 5)
    assert returns_probabilities(fitted.network) == (activation == "softmax")
    assert fitted.notes == (
        "new head 'scores' with 5 classes (the network's output is (None, 3), the data has 5 classes)",
    )
    np.testing.assert_array_equal(fitted.network.get_layer("conv").kernel, given.get_layer("conv").kernel)
    assert given.output_shape == (None, 3)


def test_a_feature_map_gets_pooling_and_a_head() -> None:
    fitted = fit_to_data(network(), (8, 8, 1), 5)
    assert fitted.network.output_shape == (None, 5)
    assert returns_probabilities(fitted.network)


@pytest.mark.parametrize(
    "last",
    [
        [keras.layers.GlobalAveragePooling2D()],
        [keras.layers.Flatten(), keras.layers.Dense(7, activation="relu", name="features")],
        [keras.layers.Conv2D(7, 1, name="features"), keras.layers.GlobalMaxPooling2D()],
    ],
)
def test_features_are_kept_and_get_a_head_behind_them(last: list[keras.Layer]) -> None:
    given = network(*last)
    fitted = fit_to_data(given, (8, 8, 1), 5)
    assert fitted.new_head == "head"
    features = keras.Model(fitted.network.inputs, fitted.network.get_layer("head").input)
    np.testing.assert_array_equal(features.predict(IMAGES, verbose=0), given.predict(IMAGES, verbose=0))


def test_logits_and_probabilities_are_told_apart() -> None:
    assert returns_probabilities(classifier(3))
    assert not returns_probabilities(classifier(3, None))
    assert returns_probabilities(
        network(keras.layers.Flatten(), keras.layers.Dense(3), keras.layers.Softmax())
    )


def test_what_a_network_takes_is_read_off_it() -> None:
    assert input_shape(classifier(3)) == (8, 8, 1)
    free = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3)])
    assert input_shape(free) == (None, None, 3)


def for_rows(features: int | None, classes: int = 3) -> keras.Model:
    return keras.Sequential(
        [keras.Input((features,)), keras.layers.Dense(classes, activation="softmax", name="scores")]
    )


def test_networks_for_rows_of_numbers_are_fitted_as_well() -> None:
    assert input_shape(for_rows(7)) == (7,)
    given = for_rows(7)
    assert fit_to_data(given, (7,), 3).network is given
    fitted = fit_to_data(given, (7,), 5)
    assert (fitted.new_head, fitted.network.output_shape) == ("scores", (None, 5))


@pytest.mark.parametrize(
    ("own", "given", "message"),
    [
        ((7,), (6,), "the network takes rows of 7 numbers, the data gives rows of 6 numbers"),
        ((8,), (8, 8, 1), r"the network takes rows of 8 numbers, the data gives images of shape \(8, 8, 1\)"),
        (
            (8, 8, 1),
            (64,),
            r"the network takes images of shape \(8, 8, 1\), the data gives rows of 64 numbers",
        ),
    ],
)
def test_rows_of_another_length_and_images_for_rows_are_refused(
    own: tuple, given: tuple, message: str
) -> None:
    taking = for_rows(own[0]) if len(own) == 1 else classifier(3)
    with pytest.raises(ModelError, match=f"^{message}$"):
        fit_to_data(taking, given, 3)


def test_images_with_four_channels_are_fitted() -> None:
    images = keras.Input((5, 7, 4))
    scores = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(images))
    assert fit_to_data(keras.Model(images, scores), (5, 7, 4), 2).notes == ()


def test_a_range_of_pixels_is_refused_for_rows() -> None:
    given = for_rows(7)
    assert with_pixels(given, [0.0, 255.0]) is given
    with pytest.raises(
        ModelError, match=r"model.input_range=\[0, 1\] is of pixels, and the network takes rows"
    ):
        with_pixels(given, [0, 1])
    pictures = classifier(3)
    np.testing.assert_allclose(with_pixels(pictures, [0, 1])(IMAGES), pictures(IMAGES / 255), rtol=1e-5)


def test_an_input_that_is_no_batch_of_images_or_rows_is_refused() -> None:
    sound = keras.Sequential([keras.Input((64, 2)), keras.layers.Dense(3)])
    with pytest.raises(
        ModelError, match=r"input is \(None, 64, 2\); it must be one batch of images .* or of rows of numbers"
    ):
        input_shape(sound)
    left, right = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    with pytest.raises(ModelError, match="it must be one batch of images"):
        input_shape(keras.Model([left, right], keras.layers.Add()([left, right])))


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"takes images of shape \(8, 8, 1\), the data gives images of shape \(9, 8, 1\)"
    ):
        fit_to_data(classifier(3), (9, 8, 1), 3)


@pytest.mark.parametrize(
    "last",
    [
        [keras.layers.Dense(10, activation="sigmoid")],
        [keras.layers.Dense(1), keras.layers.Activation("sigmoid")],
    ],
)
def test_a_sigmoid_at_the_end_is_refused(last: list[keras.Layer]) -> None:
    with pytest.raises(ModelError, match=r"ends in a sigmoid: .* End it in a softmax, or in no activation"):
        fit_to_data(network(keras.layers.Flatten(), *last), (8, 8, 1), 10)


def test_two_outputs_are_refused() -> None:
    images = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(images)
    two = keras.Model(images, [keras.layers.Dense(3)(flat), keras.layers.Dense(3)(flat)])
    with pytest.raises(ModelError, match="the network has 2 outputs; it must have one"):
        fit_to_data(two, (8, 8, 1), 3)
