"""Look: which layers get batch normalization, and why the others do not."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args, overload

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.flow import Step, ahead, is_gate, is_squeeze, trace
from bnadapt.surgery.graph import Call, calls, nodes
from bnadapt.surgery.kinds import TARGETS, fused_activation, is_keras_own, target_of, type_name
from bnadapt.surgery.rebuild import check_rewritable
from bnadapt.surgery.tree import unique_name

Position = Literal["before_activation", "after_activation"]
Patterns = str | Sequence[str]


@dataclass(frozen=True)
class Site:
    """A place for one batch normalization: at one call of one layer.

    Attributes:
        layer: path of the layer, names joined by "/" through nested models.
        layer_type: its class, such as "Conv2D" or "TimeDistributed(Dense)".
        channels: size of the channel axis.
        axis: channel axis of the tensor to normalize; -1 where it is the last.
        position: before or after the layer's activation.
        name: of the layer to insert, unique in its model.
        call: which call of the layer, 0 where it is called once.
    """

    layer: str
    layer_type: str
    channels: int
    axis: int
    position: Position
    name: str
    call: int = 0


class Sites(Sequence[Site]):
    """The sites in graph order, immutable; ``passed_over`` gives a reason for every other candidate layer."""

    def __init__(self, sites: Sequence[Site] = (), passed_over: Mapping[str, str] | None = None) -> None:
        """Hold sites, and the reasons against other layers by their paths."""
        self._sites = tuple(sites)
        self.passed_over = dict(passed_over or {})

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> "Sites": ...
    def __getitem__(self, index: int | slice) -> "Site | Sites":
        """One site, or a part of them."""
        return Sites(self._sites[index], self.passed_over) if isinstance(index, slice) else self._sites[index]

    def __len__(self) -> int:
        """The number of batch normalization layers that these sites stand for."""
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        """The sites in graph order."""
        return iter(self._sites)

    def __eq__(self, other: object) -> bool:
        """Equal where sites and reasons are."""
        return (
            isinstance(other, Sites) and self._sites == other._sites and self.passed_over == other.passed_over
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """One line per site, then one per layer passed over."""
        width = max((len(path) for path in [*(site.layer for site in self), *self.passed_over]), default=0)
        lines = [f"{len(self)} site{'' if len(self) == 1 else 's'} for batch normalization"]
        for site in self:
            which = f", call {site.call}" if site.call else ""
            lines.append(
                f"  {site.layer:<{width}}  {site.layer_type}, {site.channels} channels, "
                f"{site.position.replace('_', ' ')}{which}"
            )
        lines += [f"  {path:<{width}}  no: {reason}" for path, reason in self.passed_over.items()]
        return "\n".join(lines)


def find_sites(
    model: keras.Model,
    position: Position = "before_activation",
    include: Patterns = ".*",
    exclude: Patterns = (),
) -> Sites:
    """Find the calls of convolutions and dense layers that get batch normalization; changes nothing.

    Passed over are: the head (layers from which an output is reached without another weighted layer),
    layers after which a normalization comes before the next weighted layer on every path, the gates of
    squeeze-and-excite blocks (their statistics would be taken over one position per image), and layers
    inside others that the graph does not show. A layer that is called several times has one site per call.

    Args:
        model: a Sequential or Functional network.
        position: before_activation normalizes the linear output; after_activation what the activation
            makes of it, also where the activation is a layer of its own that alone uses the output.
        include: regular expressions, full match over a layer's path or name; only these.
        exclude: likewise; not these.

    Returns:
        The sites; none where the network has no place for one.

    Raises:
        SurgeryError: the network cannot be rewritten, or a pattern matches no convolution or dense layer.
    """
    if position not in get_args(Position):
        raise SurgeryError(f"position={position!r}: choose one of {', '.join(get_args(Position))}")
    check_rewritable(model)
    steps: dict[int, list[Step]] = defaultdict(list)
    for step in trace(model):
        steps[id(step.call.node)].append(step)
    by_layer: dict[str, list[Call]] = defaultdict(list)
    for call in calls(model):
        if target_of(call.operation) is not None:
            by_layer[call.path].append(call)
    chosen = Selection(list(by_layer), include, exclude)

    sites: list[Site] = []
    passed_over = _hidden_targets(model)
    taken: dict[str, set[str]] = {}
    for path, layer_calls in by_layer.items():
        everywhere = [step for call in layer_calls for step in steps[id(call.node)]]
        reason = chosen.reason_against(path) or _reason_against_layer(everywhere, position)
        reasons = [reason or _reason_against_call(steps[id(call.node)]) for call in layer_calls]
        if all(reasons):
            passed_over[path] = str(reasons[0])
        for call, against in zip(layer_calls, reasons, strict=True):
            if not against:
                names = taken.setdefault(call.model_path, {node.operation.name for node in nodes(call.model)})
                sites.append(_site(call, position, names))
    return Sites(sites, passed_over)


class Selection:
    """Include and exclude patterns over paths, each of which must match something."""

    def __init__(self, candidates: Sequence[str], include: Patterns, exclude: Patterns) -> None:
        """Check every pattern against the candidates' paths."""
        self.include, self.exclude = as_patterns(include), as_patterns(exclude)
        for pattern in [*self.include, *self.exclude]:
            if pattern != ".*" and not any(matches(pattern, path) for path in candidates):
                raise SurgeryError(
                    f"the pattern '{pattern}' matches no convolution or dense layer; there are: "
                    f"{', '.join(candidates) or 'none'}"
                )

    def reason_against(self, path: str) -> str | None:
        """Why a layer is left out, or None."""
        if not any(matches(pattern, path) for pattern in self.include):
            return "not included: " + ", ".join(f"'{pattern}'" for pattern in self.include)
        excluding = [pattern for pattern in self.exclude if matches(pattern, path)]
        return f"excluded by '{excluding[0]}'" if excluding else None


def as_patterns(patterns: Patterns) -> list[str]:
    """A list of regular expressions from one or several; SurgeryError where one is none."""
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in listed:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SurgeryError(f"'{pattern}' is no regular expression: {error}") from error
    return listed


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern fully matches a path or the name at its end."""
    return bool(re.fullmatch(pattern, path) or re.fullmatch(pattern, path.rsplit("/", 1)[-1]))


def channel_axis(layer: keras.Layer, rank: int) -> int | None:
    """The channel axis of a target layer's output, -1 where it is the last; None where it is not clear."""
    inner = target_of(layer)
    if isinstance(inner, keras.layers.EinsumDense):
        axis = _einsum_axis(inner.equation, rank)
    elif getattr(inner, "data_format", "channels_last") == "channels_first":
        axis = 1 if inner is layer else 2
    else:
        axis = rank - 1
    return -1 if axis == rank - 1 else axis


def _einsum_axis(equation: str, rank: int) -> int | None:
    inputs, output = equation.replace(" ", "").split("->")
    letters = output.replace("...", "")
    fresh = [letter for letter in letters if letter not in inputs.split(",")[0]]
    if len(fresh) != 1 or output.count(fresh[0]) != 1:
        return None
    before = output.split(fresh[0])[0]
    return len(before) if "..." not in before else rank - len(output.split(fresh[0])[1]) - 1


def _reason_against_layer(steps: Sequence[Step], position: Position) -> str | None:
    call = steps[0].call
    layer, output = call.operation, call.output
    if any(ahead(step, through_normalization=True).reaches_output for step in steps):
        return "the head: an output is reached without another weighted layer"
    axis = channel_axis(layer, len(output.shape))
    if axis is None:
        return (
            f"its channel axis is not clear from its equation '{getattr(target_of(layer), 'equation', '')}'"
        )
    if output.shape[axis] is None:
        return "the number of its channels is not known"
    mask = getattr(output, "_keras_mask", None)
    if mask is not None and (axis != -1 or not _same_shape(mask.shape, output.shape[:-1])):
        return "its output has a mask that batch normalization cannot use"
    activation = fused_activation(layer)
    if position == "before_activation" and activation is not None:
        if isinstance(activation, keras.Layer):
            return f"its activation is a layer ({type(activation).__name__}) inside it: put it behind"
        if not is_keras_own(layer) or not is_keras_own(target_of(layer)):
            return f"{type_name(layer)} is a class of its own: its activation cannot be taken out"
    return None


def _same_shape(first: Sequence[int | None], second: Sequence[int | None]) -> bool:
    return len(first) == len(second) and all(
        a == b or None in (a, b) for a, b in zip(first, second, strict=True)
    )


def _reason_against_call(steps: Sequence[Step]) -> str | None:
    following = [ahead(step) for step in steps]
    if all(each.normalizations and not each.weighted for each in following):
        first = following[0].normalizations[0].call
        return f"'{first.path}' normalizes before the next weighted layer on every path"
    if any(is_gate(step) for step in steps):
        return "a gate: its output scales whole channels of another one"
    if any(is_squeeze(step) for step in steps):
        return "feeds a gate: it sees one position per image"
    return None


def _site(call: Call, position: Position, names: set[str]) -> Site:
    layer, shape = call.operation, call.output.shape
    axis = channel_axis(layer, len(shape))
    assert axis is not None, call.path  # _reason_against_layer has seen to it
    name = unique_name(f"{layer.name}_inserted_bn" + (f"_{call.index}" if call.index else ""), names)
    names.add(name)
    return Site(call.path, type_name(layer), int(shape[axis]), axis, position, name, call.index)


def _hidden_targets(model: keras.Model) -> dict[str, str]:
    """Convolutions and dense layers inside leaves: the graph does not show what comes after them."""
    hidden = {}
    for call in calls(model):
        if isinstance(call.operation, keras.Layer) and target_of(call.operation) is None:
            for inner in call.operation._flatten_layers(include_self=False, recursive=True):
                if isinstance(inner, TARGETS):
                    hidden[f"{call.path}/{inner.name}"] = (
                        f"inside {type_name(call.operation)}, which is not opened"
                    )
    return hidden
