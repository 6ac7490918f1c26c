"""What the examples of the splits have in common: digests, copies in several splits, sizes of classes."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bnadapt.config import DataSettings
from bnadapt.data.holdout import Share
from bnadapt.data.records import Records, Source
from bnadapt.data.wording import listing, unit_of

_IMBALANCED_ABOVE = 10


def content_notes(
    source: Source, shares: Mapping[str, Share], records: Mapping[str, Records], settings: DataSettings
) -> list[str]:
    """Sentences on classes that are missing or much larger than others, and on copies of training images.

    Args:
        source: Says the names of the classes.
        shares: Positions of ``train`` (those with labels), ``validation`` and ``test``.
        records: Of every part that the shares refer to.
        settings: Whether classes are weighed is used.
    """
    unit = unit_of(source.image_shape)
    return [
        *_class_notes(source.classes, shares, records, settings, unit),
        *_copy_notes(source.classes, shares, records, unit),
    ]


def _class_notes(
    classes: Sequence[str],
    shares: Mapping[str, Share],
    records: Mapping[str, Records],
    settings: DataSettings,
    unit: str,
) -> list[str]:
    notes = []
    for role in ("train", "validation", "test"):
        labels = records[shares[role].part].labels[shares[role].indices]
        counts = np.bincount(labels, minlength=len(classes))
        absent = [name for name, count in zip(classes, counts, strict=True) if not count]
        if absent:
            notes.append(f"{role} has no {unit[:-1]} of {listing(absent)}")
        if role == "train":
            smallest = int(np.argmin(np.where(counts, counts, len(labels) + 1)))
            largest = int(np.argmax(counts))
            if counts[largest] > _IMBALANCED_ABOVE * counts[smallest]:
                remedy = (
                    "their weights in the training loss make up for it"
                    if settings.class_weights == "balanced"
                    else "data.class_weights=balanced gives every class the same weight in the training loss"
                )
                notes.append(
                    f"train: the largest class, {listing([classes[largest]])}, has {counts[largest]:,} {unit}, the "
                    f"smallest, {listing([classes[smallest]])}, has {counts[smallest]:,}: {remedy}"
                )
    return notes


def _copy_notes(
    classes: Sequence[str], shares: Mapping[str, Share], records: Mapping[str, Records], unit: str
) -> list[str]:
    """Which images of validation and test are training images too, by their files or by their pixels."""
    trained: dict[bytes, int] = {}
    others: set[tuple[bytes, int]] = set()  # the second label of what stands in train with two
    for key, label in _keyed(records[shares["train"].part], shares["train"]):
        if trained.setdefault(key, label) != label:
            others.add((key, label))
    notes = []
    for role in ("validation", "test"):
        share = shares[role]
        total = len(share.indices)
        found = {"byte for byte" if unit == "images" else "number for number": 0}
        found["the same pixels in another file"] = 0
        contradicting: list[tuple[int, int]] = []
        for index in share.indices:
            label = int(records[share.part].labels[index])
            for key, how in zip(_keys(records[share.part], index), found, strict=False):
                if key in trained:
                    found[how] += 1
                    if label != trained[key] and (key, label) not in others:
                        contradicting.append((label, trained[key]))
                    break
        notes += [
            f"{role}: {count:,} of {total:,} {unit} {'is' if count == 1 else 'are'} in train as well, {how}"
            for how, count in found.items()
            if count
        ]
        if contradicting:
            here, there = contradicting[0]
            one = len(contradicting) == 1
            notes.append(
                f"{role}: {len(contradicting):,} of these {'has' if one else 'have'} another label there, such as "
                f"{listing([classes[here]])} in {role} and {listing([classes[there]])} in train: one of the two is "
                "wrong"
            )
    return notes


def _keyed(part: Records, share: Share) -> Iterator[tuple[bytes, int]]:
    for index in share.indices:
        for key in _keys(part, index):
            yield key, int(part.labels[index])


def _keys(part: Records, index: int) -> tuple[bytes, ...]:
    """What tells an example from others: its digest as stored and, where known, that of its pixels."""
    return (part.digests[index],) if part.pixels is None else (part.digests[index], part.pixels[index])


def fingerprints(digests: Sequence[bytes], indices: np.ndarray) -> np.ndarray:
    """Eight bytes of each digest: as good as unique among millions, and small enough to keep."""
    return np.frombuffer(b"".join(digests[index][:8] for index in indices), np.uint64)


def digest_of(
    source: Source,
    image_shape: tuple[int, ...],
    roles: Sequence[str],
    shares: Mapping[str, Share],
    records: Mapping[str, Records],
    settings: DataSettings,
) -> str:
    """SHA-256 over classes, shape, shift, and the stored images and labels of these roles, in their order."""
    digest = hashlib.sha256(repr((source.classes, image_shape)).encode())
    if settings.shift != "none":
        digest.update(repr((settings.shift, settings.severity, settings.shift_seed)).encode())
    for role in roles:
        part, indices = records[shares[role].part], shares[role].indices
        digest.update(role.encode())
        digest.update(b"".join(part.digests[index] for index in indices))
        digest.update(part.labels[indices].astype("<i8").tobytes())
    return digest.hexdigest()
