"""A policy in words: what every layer trains, what it normalizes with, and whether its statistics move."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from bnadapt.normalization.switches import is_batch_norm, switches_of
from bnadapt.surgery.tree import layer_tree, own_weights, weights_by_path

WIDTH = 100
LISTED_ONE_BY_ONE = 40
LONGEST_PATTERN = 8
LONGEST_NAMES = 18
_HEADER = ("layer", "type", "trains", "parameters", "normalizes", "statistics")


@dataclass(frozen=True)
class LayerPolicy:
    """How one layer takes part in training.

    Attributes:
        path: of the layer.
        layer_type: its class.
        trainable: scalars that training changes by gradients.
        frozen: scalars that it does not.
        normalizes_with: of batch normalization: "batch" or "moving statistics"; else "".
        statistics: of batch normalization: whether the moving statistics "move" or "stay"; else "".
        trains: names of the weights that train, such as ("gamma", "beta").
    """

    path: str
    layer_type: str
    trainable: int
    frozen: int
    normalizes_with: str
    statistics: str
    trains: tuple[str, ...] = ()


def describe_policy(model: keras.Model, drawn: Mapping[str, np.ndarray] | None = None) -> list[LayerPolicy]:
    """One row for each layer that has weights, in graph order, under the present flags; changes nothing.

    Args:
        model: any network.
        drawn: which entries of some weights train, as from ``drawn_entries``; those alone are counted.
    """
    trainable = {id(each) for each in model.trainable_variables}
    counts = {
        id(weight): int(drawn[path].sum()) if drawn and path in drawn else math.prod(weight.shape)
        for path, weight in weights_by_path(model).items()
    }
    rows = []
    for entry in layer_tree(model):
        weights = own_weights(entry.layer)
        if not weights:
            continue
        trains = [each for each in weights if id(each) in trainable]
        mode = statistics = ""
        if is_batch_norm(entry.layer):
            switches = switches_of(entry.layer, trainable)
            mode = "batch" if switches.normalize == "batch" else "moving statistics"
            statistics = switches.statistics
        count = sum(counts[id(each)] for each in trains)
        total = sum(math.prod(each.shape) for each in weights)
        rows.append(
            LayerPolicy(
                path=entry.path,
                layer_type=type(entry.layer).__name__,
                trainable=count,
                frozen=total - count,
                normalizes_with=mode,
                statistics=statistics,
                trains=tuple(each.name for each in trains),
            )
        )
    return rows


def policy_table(rows: Sequence[LayerPolicy]) -> str:
    """The rows of ``describe_policy`` as a table of at most 100 columns.

    Up to 40 layers have a line each. Of more, a sequence of layers that repeats, such as convolution and batch
    normalization by turns, has one line per member of the sequence: "conv1 (+52)" is conv1 and the next 52 like
    it. "parameters" are those that train, of all; "normalizes" is what training normalizes
    with, the batch or the moving statistics, and "statistics" what becomes of these.
    """
    groups = [[row] for row in rows] if len(rows) <= LISTED_ONE_BY_ONE else list(_repeating(rows))
    lines = [_HEADER, *map(_line, groups)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[2] = min(widths[2], LONGEST_NAMES)
    widths[0] = max(min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)), len(_HEADER[0]))
    text = [
        "  ".join(
            _shortened(cell, width).ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
    trainable = sum(row.trainable for row in rows)
    total = trainable + sum(row.frozen for row in rows)
    moving = sum(row.statistics == "move" for row in rows)
    norms = sum(bool(row.statistics) for row in rows)
    text.append(
        f"{trainable:,} of {total:,} parameters train; the statistics of {moving} of {norms} batch "
        "normalization layers move"
    )
    return "\n".join(text)


def _line(group: Sequence[LayerPolicy]) -> tuple[str, ...]:
    first = group[0]
    train = sum(row.trainable for row in group)
    total = train + sum(row.frozen for row in group)
    return (
        f"{first.path} (+{len(group) - 1})" if len(group) > 1 else first.path,
        first.layer_type,
        ", ".join(first.trains) or "-",
        f"{train:,} of {total:,}",
        first.normalizes_with.split()[0] if first.normalizes_with else "-",
        first.statistics or "-",
    )


def _repeating(rows: Sequence[LayerPolicy]) -> Iterator[list[LayerPolicy]]:
    """Groups of like rows: the members of each sequence of rows that repeats at once."""
    alike = [(row.layer_type, row.trains, row.normalizes_with, row.statistics) for row in rows]
    start = 0
    while start < len(rows):
        lengths = {period: _repeats(alike, start, period) for period in range(1, LONGEST_PATTERN + 1)}
        period = max(lengths, key=lambda each: (each * lengths[each] if lengths[each] > 1 else 1, -each))
        covered = period * lengths[period] if lengths[period] > 1 else 1
        for member in range(min(period, covered)):
            yield list(rows[start + member : start + covered : period])
        start += covered


def _repeats(alike: Sequence[object], start: int, period: int) -> int:
    """How often the sequence of ``period`` entries at the start comes, one after the other."""
    pattern = alike[start : start + period]
    times = 1
    while alike[start + times * period : start + (times + 1) * period] == pattern:
        times += 1
    return times


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    end = (width - 3) * 2 // 3  # the end tells more of a path
    return f"{text[: width - 3 - end]}...{text[len(text) - end :]}"
