"""What a run is called, and the parameters that tell it from others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bnadapt.config import BASELINE, INSERT, PlacementSettings, Settings, length_of
from bnadapt.data.load import Description


def parameters_of_run(
    settings: Settings, source: Description, target: Description, stages: list[str], before: Mapping[str, str]
) -> dict[str, str]:
    """What describes the run in a word each; for stages that an earlier run performed, what that run said."""
    own = {
        "data": target.name,
        "baseline_data": source.name,
        "model": _model_name(settings),
        "placement": placement_name(settings.placement),
        "init": settings.insertion.init,
        "schedule": ", ".join(
            f"{name} {how.epochs if how.steps is None else length_of(how)}"
            for name, how in settings.schedule.items()
        ),
        "seed": str(settings.seed),
    }
    inherited = ([] if BASELINE in stages else ["baseline_data", "model"]) + (
        [] if INSERT in stages else ["placement", "init"]
    )
    return own | {key: before[key] for key in inherited if key in before}


def overrides(command: Sequence[str]) -> dict[str, str]:
    """Single settings that the command changes, so that runs that differ in them can be told apart."""
    changes = [
        word.lstrip("+").partition("=") for word in command if "=" in word and not word.startswith("-")
    ]
    return {
        key: value for key, _, value in changes if "." in key and not key.startswith(("hydra.", "tracking."))
    }


def run_name(parameters: Mapping[str, str]) -> str:
    """A name whose beginning differs between runs: data, network, placement, seed."""
    source, target = parameters["baseline_data"], parameters["data"]
    data = target if source == target else f"{source}>{target}"
    placement = parameters["placement"].replace("_activation", "").replace(", ", "+")
    return f"{data} {parameters['model'].split(' ')[0]} {placement} s{parameters['seed']}"


def placement_name(placement: PlacementSettings) -> str:
    """A placement in a word or two: ``before_activation, input``."""
    if not placement.on_input:
        return placement.position
    return "input" if placement.position == "none" else f"{placement.position}, input"


def _model_name(settings: Settings) -> str:
    model = settings.model
    match model.kind:
        case "mlp":
            return "mlp " + "-".join(map(str, model.widths))
        case "cnn":
            return "cnn " + "-".join(map(str, [*model.filters, model.dense]))
        case _:
            return Path(model.path or "").stem
