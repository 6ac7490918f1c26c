"""Real images small enough for tests: a part of scikit-learn's digits as splits in memory."""

import numpy as np
from sklearn.datasets import load_digits

from bnadapt.data.splits import ArraySplit, Splits


def digit_splits(train: int = 600, validation: int = 150, test: int = 200) -> Splits:
    """Splits of so many 8 x 8 images each, values 0 to 255, without a random choice."""
    images, labels = load_digits(return_X_y=True)
    images = np.round(images * 255 / 16).astype("uint8").reshape(-1, 8, 8, 1)
    edges = np.cumsum([0, train, validation, test])
    parts = {
        name: ArraySplit(name, images[start:stop], labels[start:stop])
        for name, start, stop in zip(("train", "validation", "test"), edges[:-1], edges[1:], strict=True)
    }
    return Splits(
        name="digits",
        classes=tuple("0123456789"),
        image_shape=(8, 8, 1),
        train=parts["train"],
        unlabelled=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        digest="0" * 64,
        notes=(),
    )
