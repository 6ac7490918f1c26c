"""What a pipeline is about to do, as it is printed before it starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnadapt.report.tables import plain_table

if TYPE_CHECKING:
    from bnadapt.surgery.sites import Site

SITES_SHOWN = 24
NAMES_SHOWN = 4
POSITIONS = {
    "before_activation": "before the activation",
    "after_activation": "after the activation",
    "input": "on the input",
}


@dataclass(frozen=True)
class PlanStage:
    """What one stage is going to do.

    Attributes:
        name: The stage's name.
        length: How long it trains at most: ``5 epochs``, ``300 steps``; empty where it takes no steps.
        learning_rate: At the start; None for a stage that trains nothing.
        trains: What trains, in words: ``batch_norm, head``.
        trainable: Number of trainable parameters (scalars).
        statistics: What batch normalization's statistics do: ``batch, then re-estimated``.
    """

    name: str
    length: str
    learning_rate: float | None
    trains: str
    trainable: int
    statistics: str


def plan(
    sites: "Sequence[Site]", passed_over: Mapping[str, str], stages: Sequence[PlanStage]
) -> RenderableType:
    """The whole plan: the layers that get batch normalization, those passed over and why, the stages."""
    parts = [_sites(sites)]
    if passed_over:
        parts += ["", _passed_over(passed_over)]
    if stages:
        parts += ["", stage_table(stages)]
    return Group(*parts)


def _sites(sites: "Sequence[Site]") -> RenderableType:
    if not sites:
        return Text("Batch normalization goes into no layer", style="bold")
    table = plain_table("layer", "type", ">channels", "position")
    for site in sites[:SITES_SHOWN]:
        table.add_row(
            Text(site.layer),
            Text(site.layer_type),
            str(site.channels),
            POSITIONS.get(site.position, site.position),
        )
    if len(sites) > SITES_SHOWN:
        channels = sum(site.channels for site in sites[SITES_SHOWN:])
        table.add_row(f"and {len(sites) - SITES_SHOWN} more", "", str(channels), "")
    layers = "1 layer" if len(sites) == 1 else f"{len(sites)} layers"
    return Group(Text(f"Batch normalization goes into {layers}", style="bold"), table)


def _passed_over(passed_over: Mapping[str, str]) -> RenderableType:
    by_reason: dict[str, list[str]] = {}
    for layer, reason in passed_over.items():
        by_reason.setdefault(reason, []).append(layer)
    table = plain_table("passed over", "because")
    for reason, layers in by_reason.items():
        table.add_row(Text(_shortened(layers)), Text(reason))
    return table


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def stage_table(stages: Sequence[PlanStage]) -> Table:
    """What each stage is going to do, a row each."""
    table = plain_table("stage", ">length", ">rate", "trains", ">parameters", "statistics")
    for stage in stages:
        rate = "-" if stage.learning_rate is None else f"{stage.learning_rate:g}"
        table.add_row(
            Text(stage.name),
            stage.length or "-",
            rate,
            Text(stage.trains or "-"),
            f"{stage.trainable:,}",
            Text(stage.statistics or "-"),
        )
    return table
