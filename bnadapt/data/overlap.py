"""Whether images to choose and to judge by are among those that the baseline learns from."""

import numpy as np

from bnadapt.data.splits import Splits
from bnadapt.data.wording import unit_of


def overlap_notes(source: Splits, target: Splits) -> list[str]:
    """Say which of the target's validation and test images are training images of the baseline's data.

    Encoded images are compared: the same picture in another file format is not found, and a shift, which changes
    images after they were read, hides nothing.

    Args:
        source: What the baseline trains on.
        target: What is adapted to.

    Returns:
        A note for the user for each split that shares images; none where fingerprints are not known.
    """
    trained = source.fingerprints.get("train", np.zeros(0, np.uint64))
    unit = unit_of(target.image_shape)
    how = "byte for byte as stored" if unit == "images" else "number for number"
    notes = []
    for split in (target.validation, target.test):
        shared = int(np.isin(target.fingerprints.get(split.name, trained[:0]), trained).sum())
        if shared:
            verb, them = ("is", "it") if shared == 1 else ("are", "them")
            notes.append(
                f"{split.name}: {shared:,} of {split.size:,} {unit} {verb} among the training {unit} of baseline_data "
                f"({source.name}), {how}: scores on {them} flatter every stage"
            )
    return notes
