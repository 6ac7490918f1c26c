"""What each class counts in the training loss."""

from collections.abc import Mapping

import numpy as np

from bnadapt.errors import SettingsError


def weights_of_classes(
    labels: np.ndarray, classes: int, asked: str | Mapping[int, float]
) -> np.ndarray | None:
    """What the loss of an image is multiplied by, by its class; None where all count the same.

    ``balanced``: n / (k n_c) for a class with n_c of the n images, where k classes have any. Summed over the images
    each class then counts as much as any other, and the mean weight is 1, so that the learning rate stays right
    (King and Zeng, 2001, "Logistic Regression in Rare Events Data"; scikit-learn's ``class_weight="balanced"``).

    Args:
        labels: Of the training images, integers of shape ``(images,)``.
        classes: How many there are; those without an image get the weight 1, which nothing uses.
        asked: ``none``, ``balanced``, or a weight by class, 1 for those that it leaves out.

    Returns:
        float32 of shape ``(classes,)``.

    Raises:
        SettingsError: ``asked`` is none of these, or a weight is negative or no number.
    """
    if asked == "none":
        return None
    weights = np.ones(classes, "float32")
    if asked == "balanced":
        counts = np.bincount(labels, minlength=classes)
        present = counts > 0
        weights[present] = len(labels) / (present.sum() * counts[present])
    elif isinstance(asked, Mapping):
        for number, weight in asked.items():
            if number not in range(classes):
                raise SettingsError(
                    f"class_weights: there is no class {number!r}, classes are 0 to {classes - 1}"
                )
            weights[number] = weight
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise SettingsError(f"class_weights={dict(asked)}: every weight must be a number, 0 or more")
    else:
        raise SettingsError(f"class_weights={asked!r}: choose none, balanced, or a weight by class")
    return weights
