"""Look: which layers get batch normalization, and why the others do not."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args, overload

import keras

from bnadapt.errors import SurgeryError
from bnadapt.surgery.channels import channel_axis, input_axes
from bnadapt.surgery.flow import Step, trace
from bnadapt.surgery.graph import Call, calls, inputs_of, nodes, producer
from bnadapt.surgery.kinds import target_of, type_name
from bnadapt.surgery.reasons import hidden_targets, reason_against_call, reason_against_layer
from bnadapt.surgery.rebuild import check_rewritable
from bnadapt.surgery.tree import unique_name

INSERTED = "_inserted_bn"  # in the names of the layers that insertion makes, behind what they normalize
Position = Literal["before_activation", "after_activation"]
Patterns = str | Sequence[str]


@dataclass(frozen=True)
class Site:
    """A place for one batch normalization: at one or several calls of one layer, or at an input.

    Attributes:
        layer: path of the layer, names joined by "/" through nested models.
        layer_type: its class, such as "Conv2D" or "TimeDistributed(Dense)"; of an input "InputLayer".
        channels: size of the channel axis.
        axis: channel axis of the tensor to normalize; -1 where it is the last.
        position: before or after the layer's activation; "input" where the layer is an input.
        name: of the layer to insert, unique in its model.
        calls: the calls of the layer that the one batch normalization follows, counted from 0.
    """

    layer: str
    layer_type: str
    channels: int
    axis: int
    position: Position | Literal["input"]
    name: str
    calls: tuple[int, ...] = (0,)


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
            which = f", call{'s' * (len(site.calls) > 1)} {', '.join(map(str, site.calls))}"
            lines.append(
                f"  {site.layer:<{width}}  {site.layer_type}, {site.channels} channels, "
                f"{site.position.replace('_', ' ')}{'' if site.calls == (0,) else which}"
            )
        lines += [f"  {path:<{width}}  no: {reason}" for path, reason in self.passed_over.items()]
        return "\n".join(lines)


def find_sites(
    model: keras.Model,
    position: Position | None = "before_activation",
    include: Patterns = ".*",
    exclude: Patterns = (),
    *,
    shared: bool = False,
    on_input: bool = False,
) -> Sites:
    """Find the calls of convolutions and dense layers that get batch normalization; changes nothing.

    Passed over are: the head (layers from which an output is reached without another weighted layer),
    layers after which a normalization comes before the next weighted layer on every path, the gates of
    squeeze-and-excite blocks (their statistics would be taken over one position per image), and layers
    inside others that the graph does not show.

    Args:
        model: a Sequential or Functional network.
        position: before_activation normalizes the linear output; after_activation what the activation
            makes of it, also where the activation is a layer of its own that alone uses the output. None:
            no layer gets batch normalization, for on_input=True alone.
        include: regular expressions, full match over a layer's path or name; only these.
        exclude: likewise; not these.
        shared: of a layer that is called several times. False: one site for each call, with statistics of
            its own. True: one site for all the calls that get batch normalization (for each rank of the
            output one), which holds statistics pooled over them; training normalizes each call by itself,
            and so computes something else than inference. The calls of a nested model always share what is
            in it: ``unnest`` the network first to have them apart.
        on_input: first of all, a site for every floating-point input of the network, whatever include and
            exclude say. Batch normalization there absorbs another scale or offset of the input's channels.

    Returns:
        The sites; none where the network has no place for one.

    Raises:
        SurgeryError: the network cannot be rewritten, or a pattern matches no convolution or dense layer.
    """
    if position not in (*get_args(Position), None):
        raise SurgeryError(f"position={position!r}: choose one of {', '.join(get_args(Position))}, or None")
    check_rewritable(model)
    steps = trace(model)
    by_layer: dict[str, list[Call]] = defaultdict(list)
    for call in calls(model):
        if target_of(call.operation) is not None:
            by_layer[call.path].append(call)
    chosen = Selection(list(by_layer), include, exclude)
    found = _Found()
    if on_input:
        _add_inputs(model, steps, found)
    if position is not None:
        found.passed_over.update(hidden_targets(model))
        _add_layers(by_layer, steps, chosen, position, shared, found)
    return Sites(found.sites, found.passed_over)


@dataclass
class _Found:
    """What has been found so far; ``taken`` holds the names of the layers in every nested model by path."""

    sites: list[Site] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    taken: dict[str, set[str]] = field(default_factory=dict)

    def name(self, wanted: str, where: Sequence[Call]) -> str:
        """A name that is free in the models of all the calls, and now taken there."""
        for call in where:
            if call.model_path not in self.taken:
                self.taken[call.model_path] = layer_names(call.model)
        models = {call.model_path for call in where}
        name = unique_name(wanted, set().union(*(self.taken[path] for path in models)))
        for path in models:
            self.taken[path].add(name)
        return name


def layer_names(model: keras.Model) -> set[str]:
    """The names of the layers and operations in one model's graph, its input layers among them."""
    return {producer(tensor).operation.name for tensor in inputs_of(model)} | {
        node.operation.name for node in nodes(model)
    }


def _add_inputs(model: keras.Model, steps: Sequence[Step], found: _Found) -> None:
    names = found.taken.setdefault("", layer_names(model))
    axes = input_axes(model, steps)
    for tensor in inputs_of(model):
        layer = producer(tensor).operation.name
        axis = axes[layer]
        if isinstance(axis, str):
            found.passed_over[layer] = axis
            continue
        name = unique_name(layer + INSERTED, names)
        names.add(name)
        found.sites.append(Site(layer, "InputLayer", int(tensor.shape[axis]), axis, "input", name))


def _add_layers(
    by_layer: Mapping[str, Sequence[Call]],
    steps: Sequence[Step],
    chosen: "Selection",
    position: Position,
    shared: bool,
    found: _Found,
) -> None:
    by_node: dict[int, list[Step]] = defaultdict(list)
    for step in steps:
        by_node[id(step.call.node)].append(step)
    for path, layer_calls in by_layer.items():
        everywhere = [step for call in layer_calls for step in by_node[id(call.node)]]
        reason = chosen.reason_against(path) or reason_against_layer(everywhere, position)
        reasons = [reason or reason_against_call(by_node[id(call.node)]) for call in layer_calls]
        if all(reasons):
            found.passed_over[path] = str(reasons[0])
        suited = [call for call, against in zip(layer_calls, reasons, strict=True) if not against]
        for group in _by_rank(suited) if shared else [[call] for call in suited]:
            found.sites.append(_site(group, position, shared, found))


def _by_rank(suited: Sequence[Call]) -> list[list[Call]]:
    """One batch normalization layer takes tensors of one rank only."""
    groups: dict[int, list[Call]] = defaultdict(list)
    for call in suited:
        groups[len(call.output.shape)].append(call)
    return list(groups.values())


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
            re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise SurgeryError(f"'{pattern}' is no regular expression: {error}") from error
    return listed


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern fully matches a path or the name at its end."""
    name = path.rsplit("/", 1)[-1]
    # A layer may be called anything, and ``.*`` means every layer.
    return bool(re.fullmatch(pattern, path, re.DOTALL) or re.fullmatch(pattern, name, re.DOTALL))


def _site(group: Sequence[Call], position: Position, shared: bool, found: _Found) -> Site:
    first = group[0]
    layer, shape = first.operation, first.output.shape
    axis = channel_axis(layer, len(shape))
    assert axis is not None, first.path  # reason_against_layer has seen to it
    number = f"_{first.index}" if first.index and not shared else ""
    name = found.name(f"{layer.name}{INSERTED}{number}", group)
    numbers = tuple(call.index for call in group)
    return Site(first.path, type_name(layer), int(shape[axis]), axis, position, name, numbers)
