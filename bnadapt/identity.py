"""What a run is called, the parameters that tell it from others, and what its results depend on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bnadapt.config import (
    BASELINE,
    CONTROL,
    EVALUATE,
    INSERT,
    PlacementSettings,
    Settings,
    StageSettings,
    chosen_stages,
    length_of,
)
from bnadapt.data.load import Description
from bnadapt.setting_keys import deciding_keys, settings_by_key


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


def stage_keys(
    settings: Settings, baseline: StageSettings, *, network: str, source: str, target: str, test: str
) -> dict[str, str]:
    """For each chosen stage, and the control, a hash of everything that its result depends on.

    Where two runs agree in the key of a stage, the stage leaves the same network in both.

    Args:
        settings: Checked settings.
        baseline: How the baseline trains on its own data.
        network: Hash of the first network, weights and structure.
        source: Digest of the images that the baseline trains on and is chosen by.
        target: Digest of those that are adapted to.
        test: Digest of all images, those to judge by included.
    """
    data, other = settings.data, settings.baseline_data
    common = {
        "code": code_digest(),
        "network": network,
        "from_run": settings.from_run,
        "seed": settings.seed,
        "batch_size": data.batch_size,
        "evaluation.batch_size": settings.evaluation.batch_size,
        "samples": settings.insertion.samples,
        "precision": settings.model.precision,
        "model.code": code_of(settings.model.code),
        "deterministic": settings.deterministic,
        "class_weights": [data.class_weights, other and other.class_weights],
        # Where a set is streamed, it is shuffled in blocks.
        "memory_limit": [data.memory_limit, other and other.memory_limit],
    }
    own: dict[str, Any] = {
        # As the settings have it, too: so trains the head that another data set may want.
        BASELINE: [asdict(baseline), asdict(settings.baseline), source, target],
        INSERT: [asdict(settings.placement), asdict(settings.insertion), source, target],
        **{name: [asdict(how), target] for name, how in settings.schedule.items()},
        EVALUATE: [asdict(settings.evaluation), test],
    }
    keys: dict[str, str] = {}
    key = hash_of(common)
    for name in chosen_stages(settings):
        if name == EVALUATE and settings.evaluation.control:
            schedule = [[name, asdict(how)] for name, how in settings.schedule.items()]
            key = keys[CONTROL] = hash_of([key, CONTROL, schedule])
        key = keys[name] = hash_of([key, name, own[name]])
    return keys


def whole(settings: Settings) -> str:
    """A hash of all settings but those that only say where and how the results are told."""
    values = settings_by_key(settings)
    return hash_of({key: repr(getattr(values[key][0], values[key][1].name)) for key in deciding_keys(values)})


@cache
def code_digest() -> str:
    """SHA-256 over bnadapt's own code and the versions of the libraries that compute, 64 hexadecimal digits.

    That of the code as it was when this was first asked for: what a process runs does not change with its files.
    """
    package = Path(__file__).resolve().parent
    found = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        found.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    found.update(repr([(name, version(name)) for name in ("keras", "numpy", "tensorflow")]).encode())
    return found.hexdigest()


def code_of(code: str | None) -> str | None:
    """SHA-256 of a user's own code, a Python file or a module that can be imported; None where there is none."""
    if code is None:
        return None
    file = Path(code)
    if not code.endswith(".py"):
        found = find_spec(code)
        file = Path(found.origin) if found is not None and found.origin is not None else file
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else code


def hash_of(content: Any) -> str:
    """SHA-256 of plain values, their order included, 64 hexadecimal digits."""
    # Not sorted: of several patterns that fit a layer the last one counts.
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()
