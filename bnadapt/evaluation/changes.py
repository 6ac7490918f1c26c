"""Which images a network gets right that another got wrong, and the reverse."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnadapt.evaluation.results import Scores


@dataclass(frozen=True)
class ChangedImage:
    """An image that one of two networks predicts rightly.

    Attributes:
        index: Its place in the split's order.
        label: Number of its right class.
        before: Number of the class that the first network predicted.
        after: Number of the class that the second network predicted.
    """

    index: int
    label: int
    before: int
    after: int

    @property
    def gained(self) -> bool:
        """Whether it is the second network that is right."""
        return self.after == self.label


@dataclass(frozen=True)
class Changes:
    """The images that changed between wrong and right.

    Attributes:
        gained: Number of images that the second network alone predicts rightly.
        lost: Number of images that the first network alone predicts rightly.
        shown: Some of both, the gained ones first.
    """

    gained: int
    lost: int
    shown: tuple[ChangedImage, ...]


def changed_images(labels: np.ndarray, before: Scores, after: Scores, *, at_most: int = 24) -> Changes:
    """The images gained and lost from one network to the other, at most so many of them chosen to be shown.

    Half of those shown are gained and half lost; where there are too few of one kind the other has more. Of
    each kind the first image of every class is chosen, then the second of every class, and so on, classes and
    images in their order: no chance, and no class crowds out the others. They are shown class by class.

    Raises:
        ValueError: the scores are not of as many images as there are labels.
    """
    if not labels.shape == before.correct.shape == after.correct.shape:
        raise ValueError(
            f"{labels.size} labels and scores of {before.correct.size} and {after.correct.size} images do not "
            "belong together"
        )
    gained = np.flatnonzero(after.correct & ~before.correct)
    lost = np.flatnonzero(before.correct & ~after.correct)
    room_for_gained = max(at_most // 2, at_most - len(lost))
    chosen_gained = _spread(gained, labels, min(room_for_gained, at_most))
    chosen_lost = _spread(lost, labels, at_most - len(chosen_gained))
    shown = tuple(
        ChangedImage(
            int(index), int(labels[index]), int(before.predicted[index]), int(after.predicted[index])
        )
        for index in (*chosen_gained, *chosen_lost)
    )
    return Changes(len(gained), len(lost), shown)


def images_at(batches: Iterable[Any], indices: Sequence[int]) -> np.ndarray:
    """The images at these places, ``(images, height, width, channels)``, in the order of the indices.

    Reads batches of (images, labels) from the start, and no further than the last image wanted.

    Raises:
        IndexError: there are fewer images.
    """
    wanted, found, start = set(indices), {}, 0
    for images, _ in batches:
        here = range(start, start + len(images))
        array = np.asarray(images)
        found.update({index: array[index - start] for index in wanted if index in here})
        start += len(images)
        if len(found) == len(wanted):
            break
    if len(found) < len(wanted):
        raise IndexError(f"image {max(wanted)} was asked for, and there are {start}")
    return np.stack([found[index] for index in indices]) if found else np.zeros((0, 1, 1, 1))


def _spread(indices: np.ndarray, labels: np.ndarray, count: int) -> list[int]:
    """So many of the indices, in turn from every class; sorted by class, then by place."""
    turn: dict[int, int] = {}
    order = []
    for index in indices:
        label = int(labels[index])
        order.append((turn.get(label, 0), label, int(index)))
        turn[label] = turn.get(label, 0) + 1
    chosen = sorted(order)[:count]
    return [index for _, index in sorted((label, index) for _, label, index in chosen)]
