"""Which features of a TensorFlow Datasets set are the image, or the vector of numbers, and the label."""

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from bnadapt.errors import DataError


def image_feature(info: tfds.core.DatasetInfo, wanted: str | None) -> str:
    """Name of the feature to learn from: the wanted one, else the supervised one, else the only one.

    That is an image or, in sets without images, a vector: a tensor of numbers of one known length.

    Raises:
        DataError: If there is none, several, or an image whose pixels are neither uint8 nor uint16.
    """
    images = [key for key, feature in _features(info) if isinstance(feature, tfds.features.Image)]
    vectors = [key for key, feature in _features(info) if _is_vector(feature)]
    chosen = _choose(info, "image", wanted, 0, [*images, *vectors], images or vectors)
    dtype = np.dtype(info.features[chosen].np_dtype)
    if chosen in images and dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{info.name}: feature {chosen} holds {dtype} pixels; only uint8 and uint16 can be read: choose another "
            "one by data.image_feature, or prepare the set with uint8 pixels, 0 to 255"
        )
    return chosen


def _is_vector(feature: tfds.features.FeatureConnector) -> bool:
    if type(feature) is not tfds.features.Tensor or len(feature.shape) != 1 or not feature.shape[0]:
        return False
    dtype = np.dtype(feature.np_dtype)
    return dtype != np.uint64 and (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating))


def label_feature(info: tfds.core.DatasetInfo, wanted: str | None) -> str:
    """Name of the label feature: the wanted one, else the supervised one, else the only class label.

    Integers serve as labels too; without a class label, where there is only one.

    Raises:
        DataError: If there is none, or several.
    """
    classes = [key for key, feature in _features(info) if isinstance(feature, tfds.features.ClassLabel)]
    integers = [
        key
        for key, feature in _features(info)
        if isinstance(feature, tfds.features.Tensor)
        and feature.shape == ()
        and np.issubdtype(feature.np_dtype, np.integer)
    ]
    return _choose(info, "label", wanted, 1, [*classes, *integers], classes or integers)


def _features(info: tfds.core.DatasetInfo) -> list[tuple[str, tfds.features.FeatureConnector]]:
    # Sorted, because a set read from its directory gives them in another order in every process.
    return sorted(info.features.items())


def _choose(
    info: tfds.core.DatasetInfo,
    role: str,
    wanted: str | None,
    position: int,
    usable: Sequence[str],
    likely: Sequence[str],
) -> str:
    kind = {"image": "an image or a vector of numbers", "label": "a class label or an integer"}[role]
    present = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in _features(info))
    if wanted is not None:
        if wanted not in usable:
            raise DataError(
                f"data.{role}_feature={wanted}: {info.name} has no feature of that name that is {kind}; "
                f"it has {present}"
            )
        return wanted
    keys = info.supervised_keys
    if isinstance(keys, tuple) and len(keys) == 2 and keys[position] in usable:
        return keys[position]
    if not likely:
        raise DataError(f"{info.name} has no feature that is {kind}: it has {present}; choose another set")
    if len(likely) > 1:
        raise DataError(
            f"{info.name} has several features that are {kind}: it has {present}; set data.{role}_feature to "
            f"one of {', '.join(likely)}"
        )
    return likely[0]
