import numpy as np
import pytest
import tensorflow as tf

from bnadapt.data.records import convert_channels, require_channels, resize
from bnadapt.errors import DataError


def random_image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_grey_becomes_rgb_by_repetition() -> None:
    grey = random_image(4, 5, 1)
    np.testing.assert_array_equal(convert_channels(tf.constant(grey), 3), np.repeat(grey, 3, axis=-1))


def test_rgb_becomes_luma() -> None:
    colour = random_image(4, 5, 3)
    luma = colour.astype(np.float64) @ [0.299, 0.587, 0.114]
    found = convert_channels(tf.constant(colour), 1).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found[..., 0], luma, atol=1)


@pytest.mark.parametrize(("present", "wanted"), [(2, 1), (2, 3), (4, 3), (4, 1)])
def test_what_is_transparent_becomes_white(present: int, wanted: int) -> None:
    image = np.zeros((1, 3, present), np.uint8)
    image[0, :, -1] = [0, 255, 51]
    found = convert_channels(tf.constant(image), wanted).numpy()
    np.testing.assert_array_equal(found, np.repeat([[[255], [0], [204]]], wanted, axis=-1))


@pytest.mark.parametrize("present", [1, 2, 3])
def test_a_fourth_channel_is_opacity(present: int) -> None:
    image = random_image(4, 5, present)
    found = convert_channels(tf.constant(image), 4).numpy()
    colour = image if present == 3 else np.repeat(image[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(found[..., :3], colour)
    np.testing.assert_array_equal(found[..., 3], image[..., 1] if present == 2 else 255)


def test_channels_that_fit_are_left_alone() -> None:
    image = tf.constant(random_image(4, 5, 4))
    assert convert_channels(image, 4) is image


def test_channels_that_cannot_be_made_are_refused() -> None:
    for present, wanted in ((1, 3), (3, 1), (4, 3), (5, 5), (3, 4)):
        require_channels(present, wanted)
    with pytest.raises(DataError, match=r"the network takes images of 2 channels and the data have 3"):
        require_channels(3, 2)
    with pytest.raises(DataError, match=r"takes images of 3 channels and the data have 6"):
        require_channels(6, 3)


def test_an_image_of_the_wanted_size_is_left_alone() -> None:
    image = random_image(7, 9, 3)
    np.testing.assert_array_equal(resize(tf.constant(image), 7, 9), image)
    # The size may be known only when the graph runs.
    unknown = tf.function(
        lambda each: resize(each, 7, 9), input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)]
    )
    np.testing.assert_array_equal(unknown(image), image)


def test_halving_averages_with_a_triangle() -> None:
    row = np.array([0, 10, 40, 80, 120, 200, 30, 70], np.float64)
    found = resize(tf.constant(row.astype(np.uint8).reshape(1, 8, 1)), 1, 4).numpy().ravel()
    expected = []
    for output in range(4):
        centre = (output + 0.5) * 2
        weights = np.maximum(0, 1 - np.abs(np.arange(8) + 0.5 - centre) / 2)
        expected.append(weights @ row / weights.sum())
    np.testing.assert_array_equal(found, np.round(expected))


def test_enlarging_interpolates_linearly_and_rounds() -> None:
    found = resize(tf.constant([[[0], [255]]], tf.uint8), 1, 4).numpy().ravel()
    assert found.tolist() == [0, 64, 191, 255]
