"""Each shift against NumPy or Pillow, and what is random in it is the same in every pass."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from bnadapt import config
from bnadapt.data.shift import SEVERITIES, SHIFTS, shifted


def picture(height: int = 24, width: int = 20, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth colours, so that sampling between pixels can be compared."""
    random = np.random.default_rng(seed).uniform(0, 255, (height, width, channels))
    return np.clip(ndimage.gaussian_filter(random, (3, 3, 0)) * 3 - 250, 0, 255).astype(np.uint8)


def change(image: np.ndarray, kind: str, severity: int = 3, seed: int = 0) -> np.ndarray:
    return shifted(tf.constant(image), kind, severity, seed).numpy()


def test_the_settings_name_the_shifts_that_there_are() -> None:
    assert tuple(SHIFTS) == config.SHIFTS


@pytest.mark.parametrize("kind", SHIFTS)
def test_images_keep_their_shape_and_every_severity_changes_more(kind: str) -> None:
    image = picture()
    changes = []
    for severity in range(1, SEVERITIES + 1):
        result = change(image, kind, severity)
        assert (result.dtype, result.shape) == (np.uint8, image.shape)
        changes.append(np.abs(result.astype(float) - image).mean())
    assert changes == sorted(changes)
    assert changes[0] > 0


@pytest.mark.parametrize("kind", SHIFTS)
def test_grey_images_of_eight_pixels_go_too(kind: str) -> None:
    assert change(picture(8, 8, 1), kind, 5).shape == (8, 8, 1)


def test_contrast_is_about_the_images_own_mean() -> None:
    image = picture()
    mean = image.astype(float).mean((0, 1))
    np.testing.assert_allclose(change(image, "contrast", 5), mean + (image - mean) * 0.1, atol=0.51)


def test_brightness_and_inversion() -> None:
    image = picture()
    np.testing.assert_allclose(
        change(image, "brightness", 2), np.minimum(image.astype(float) + 51, 255), atol=0.51
    )
    np.testing.assert_array_equal(change(image, "inversion", 5), 255 - image)
    np.testing.assert_array_equal(change(image, "inversion", 1), np.where(image >= 204, 255 - image, image))


def test_blur_is_scipys() -> None:
    image = picture(40, 40)
    deviation = 0.045 * 40
    expected = ndimage.gaussian_filter(
        image.astype(float), (deviation, deviation, 0), mode="mirror", radius=(6, 6, 0)
    )
    np.testing.assert_allclose(change(image, "blur", 3), expected, atol=0.6)


def test_rotation_is_pillows_away_from_the_corners() -> None:
    image = picture(41, 41)
    expected = np.asarray(Image.fromarray(image).rotate(20, Image.Resampling.BILINEAR))
    middle = slice(12, 29)
    np.testing.assert_allclose(
        change(image, "rotation", 2)[middle, middle].astype(float), expected[middle, middle], atol=1.5
    )


def test_noise_has_the_declared_strength_and_depends_on_image_and_seed_alone() -> None:
    grey = np.full((64, 64, 3), 127, np.uint8)
    noise = change(grey, "noise", 2).astype(float) - 127
    assert abs(noise.mean()) < 1
    assert noise.std() == pytest.approx(0.12 * 255, rel=0.03)
    np.testing.assert_array_equal(change(grey, "noise", 2), change(grey, "noise", 2))
    assert (change(grey, "noise", 2, seed=1) != change(grey, "noise", 2)).mean() > 0.9
    other = grey.copy()
    other[0, 0, 0] = 126
    assert (change(other, "noise", 2) != change(grey, "noise", 2)).mean() > 0.9


def test_it_is_the_same_inside_a_compiled_function() -> None:
    image = picture()
    for kind in SHIFTS:
        compiled = tf.function(lambda each, kind=kind: shifted(each, kind, 4, 7))
        np.testing.assert_array_equal(compiled(tf.constant(image)), change(image, kind, 4, 7))


@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize("channels", [2, 4])
def test_light_and_noise_leave_opacity_alone(kind: str, channels: int) -> None:
    image = picture(channels=channels)
    result = change(image, kind, 4)
    assert result.shape == image.shape
    assert (result[..., :-1] != image[..., :-1]).any()
    kept = (result[..., -1] == image[..., -1]).all()
    assert kept == (kind not in ("blur", "rotation"))
