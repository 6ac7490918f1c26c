"""Which batch normalization layers can be measured in one pass when each one wants those before it settled."""

from collections.abc import Collection, Iterable

import keras

from bnadapt.surgery.flow import Step, trace


def rounds(model: keras.Model, paths: Collection[str]) -> list[list[str]]:
    """The paths in as few groups as possible: a layer comes after all that its input depends on.

    Layers that depend on each other, which shared ones can, come together. Within a group the order is that
    of ``paths``. Raises SurgeryError where ``trace`` does.
    """
    before = _dependencies(model, paths)
    depth: dict[str, int] = {}

    def depth_of(path: str) -> int:
        if path not in depth:
            earlier = [each for each in before[path] if path not in before[each]]
            depth[path] = 1 + max(map(depth_of, earlier), default=-1)
        return depth[path]

    groups: list[list[str]] = [[] for _ in range(max(map(depth_of, paths), default=-1) + 1)]
    for path in paths:
        groups[depth[path]].append(path)
    return groups


def _dependencies(model: keras.Model, paths: Collection[str]) -> dict[str, set[str]]:
    """For every path all those whose output its input depends on, through all calls of shared layers."""
    before: dict[str, set[str]] = {path: set() for path in paths}
    behind: dict[int, set[str]] = {}  # what the result of a step depends on
    for step in trace(model):
        above = _union(behind[id(source)] for source in step.sources if isinstance(source, Step))
        path = step.call.path
        if path in before:
            before[path] |= above
            above = above | {path}
        behind[id(step)] = above
    for middle in before:  # what depends on a shared layer depends on all that any call of it depends on
        for path in before:
            if middle in before[path]:
                before[path] |= before[middle]
    return before


def _union(sets: Iterable[set[str]]) -> set[str]:
    return set().union(*sets)
