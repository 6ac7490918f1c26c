"""Which images belong to train, validation and test: a seeded choice of positions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnadapt.config import DataSettings
from bnadapt.errors import DataError


@dataclass(frozen=True)
class Share:
    """The sorted positions of one split within one part of the source."""

    part: str
    indices: np.ndarray


def plan(
    parts: Mapping[str, str | None],
    sizes: Mapping[str, int],
    settings: DataSettings,
    labels: np.ndarray | None = None,
    unit: str = "images",
) -> tuple[dict[str, Share], list[str]]:
    """Positions of train, validation and test, and notes on what was held out.

    What has no part of its own is held out from train: the order of train's images is permuted by
    ``data.split_seed``, test is taken from its beginning, then validation, and train is the rest, of
    which ``data.train_limit`` takes the first, as ``data.validation_limit`` does of validation. A larger limit
    therefore only adds images, and what is left out of validation trains nothing either. The shares
    refer to the whole of train. NumPy guarantees the permutation across its releases. A class of which every
    image would be held out changes places with images of larger classes, so that train keeps one.

    Args:
        parts: For ``train``, ``validation`` and ``test`` the part of the source, None where there is none.
        sizes: Number of images of each part.
        settings: The fractions, the seed and the limit.
        labels: Of the part that is train, int64 of its size; None where they are not known yet, which changes
            no number of images.
        unit: What the images are called in messages.

    Raises:
        DataError: If two roles share a part, or there are too few images.
    """
    _require_distinct(parts)
    source = parts["train"]
    assert source is not None
    size = sizes[source]
    order = _generator_of(settings).permutation(size)
    fractions = {"test": settings.test_fraction, "validation": settings.validation_fraction}
    counts = {
        role: max(1, round(size * part)) if parts[role] is None else 0 for role, part in fractions.items()
    }
    if labels is not None:
        order = _with_every_class(order, sum(counts.values()), labels)
    shares: dict[str, Share] = {}
    notes: list[str] = []
    start = 0
    for role, fraction in fractions.items():
        part = parts[role]
        limit = settings.validation_limit if role == "validation" else None
        if part is not None:
            shares[role] = Share(
                part, _limited(role, _generator_of(settings).permutation(sizes[part]), limit, notes, unit)
            )
            continue
        count = counts[role]
        shares[role] = Share(source, _limited(role, order[start : start + count], limit, notes, unit))
        start += count
        notes.append(
            f"{role}: {count} of the {size} {unit} of {source}, held out at random "
            f"(data.{role}_fraction={fraction}, data.split_seed={settings.split_seed})"
        )
    shares["train"] = Share(source, _limited("train", order[start:], settings.train_limit, notes, unit))
    for role, share in shares.items():
        if not len(share.indices):
            remedy = "smaller data.validation_fraction and data.test_fraction"
            if share.part != source:
                remedy = (
                    f"remove what makes {share.part} a part of its own, so that a part of train is held out"
                )
            raise DataError(
                f"no {unit} are left for {role}: {share.part} has {sizes[share.part]}; give more {unit}, or {remedy}"
            )
    return shares, notes


def _with_every_class(order: np.ndarray, held_out: int, labels: np.ndarray) -> np.ndarray:
    """The order with its last part, train, holding an image of every class, as far as it is large enough.

    The first images of train of which the class has another one there change places with the missing classes'.
    """
    order = order.copy()
    counts = np.bincount(labels[order[held_out:]], minlength=int(labels.max(initial=-1)) + 1)
    for label in np.setdiff1d(labels, labels[order[held_out:]]):
        spare = np.flatnonzero(counts[labels[order[held_out:]]] > 1)
        if not len(spare):
            break
        here = held_out + spare[0]
        there = np.flatnonzero(labels[order[:held_out]] == label)[-1]
        counts[labels[order[here]]] -= 1
        counts[label] += 1
        order[[here, there]] = order[[there, here]]
    return order


def _generator_of(settings: DataSettings) -> np.random.RandomState:
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(settings.split_seed)))


def _limited(role: str, order: np.ndarray, limit: int | None, notes: list[str], unit: str) -> np.ndarray:
    """The first positions of a random order, sorted, with a note where some are left out."""
    chosen = order[:limit]
    if len(chosen) < len(order):
        notes.append(f"{role}: {len(chosen)} of {len(order)} {unit}, chosen at random (data.{role}_limit)")
    return np.sort(chosen)


def with_labels(
    train: Share, labels: np.ndarray, settings: DataSettings, unit: str = "images"
) -> tuple[Share, list[str]]:
    """The training images whose labels may be used, and notes on them; the share itself where all may.

    Of every class the first ones in an order that ``data.labels_seed`` decides: more labels only add images.

    Args:
        train: Positions of all training images.
        labels: Of the whole part that the share refers to, int64.
        settings: ``labels_per_class`` or ``labels_fraction``, and the seed.
        unit: What the images are called in messages.
    """
    if settings.labels_per_class is None and settings.labels_fraction is None:
        return train, []
    generator = np.random.MT19937(np.random.SeedSequence(settings.labels_seed))
    order = np.random.RandomState(generator).permutation(len(labels))
    mine = order[np.isin(order, train.indices)]
    chosen, sizes = [], []
    for label in np.unique(labels[train.indices]):
        of_class = mine[labels[mine] == label]
        count = settings.labels_per_class or max(1, round(len(of_class) * (settings.labels_fraction or 0)))
        sizes.append(len(of_class))
        chosen.append(of_class[:count])
    indices = np.sort(np.concatenate(chosen))
    wanted = (
        f"data.labels_per_class={settings.labels_per_class}"
        if settings.labels_per_class
        else f"data.labels_fraction={settings.labels_fraction}"
    )
    every = len(indices) == len(train.indices)
    notes = []
    if not every:
        notes.append(
            f"train: labels of {len(indices):,} of the {len(train.indices):,} {unit} ({wanted}, "
            f"data.labels_seed={settings.labels_seed}); the others serve statistics only"
        )
    short = sum(size < (settings.labels_per_class or 0) for size in sizes)
    if short:
        some = f"{short} of {len(sizes)} classes {'has' if short == 1 else 'have'}"
        classes = "every class has" if short == len(sizes) else some
        notes.append(
            f"train: {classes} fewer {unit} than {wanted} (the smallest {min(sizes):,}, the largest {max(sizes):,})"
            + (": that is all labels" if every else "")
        )
    return (train, notes) if every else (Share(train.part, indices), notes)


def _require_distinct(parts: Mapping[str, str | None]) -> None:
    seen: dict[str, str] = {}
    for role, part in parts.items():
        if part is None:
            continue
        if part in seen:
            raise DataError(
                f"data.{seen[part]}_split and data.{role}_split are both {part}: every split needs images of "
                f"its own; parts are written '{part}[:80%]' and '{part}[80%:]'"
            )
        seen[part] = role
