import pytest

from bnadapt.config import DataSettings
from bnadapt.data.load import DEFAULT_IMAGE_SIZE, Description, choose_image_shape


def described(shape: tuple[int, int, int] | None, channels: int = 3) -> Description:
    return Description("set", ("a", "b"), shape, channels, {"train": 1, "validation": 1, "test": 1})


@pytest.mark.parametrize(
    ("image_size", "network", "stored", "chosen"),
    [
        (None, None, (28, 28, 1), (28, 28, 1)),
        (None, None, None, (*DEFAULT_IMAGE_SIZE, 3)),
        ([20, 10], None, (28, 28, 1), (20, 10, 1)),
        (None, (227, 227, 3), (28, 28, 1), (227, 227, 3)),
        (None, (None, None, 3), (28, 28, 1), (28, 28, 3)),
        (None, (None, 40, None), None, (128, 40, 3)),
        ([20, 10], (227, 227, 3), None, (20, 10, 3)),
    ],
)
def test_settings_come_before_the_network_and_that_before_the_set(
    image_size: list[int] | None,
    network: tuple[int | None, int | None, int | None] | None,
    stored: tuple[int, int, int] | None,
    chosen: tuple[int, int, int],
) -> None:
    assert choose_image_shape(DataSettings(image_size=image_size), described(stored), network) == chosen
