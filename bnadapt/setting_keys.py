"""Settings by their full keys, as commands and configuration files name them."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import Field, fields, is_dataclass
from typing import Any

from bnadapt.config import Settings

# What may differ between two runs that do the same: it changes nothing but where and how that is told.
_TELLING = (
    "resume", "repeat", "checkpoints.", "progress", "traceback", "tracking.uri", "tracking.experiment",
    "tracking.telemetry", "tracking.system_metrics", "search.", "comparison.",
)  # fmt: skip
_PLACES = (".dir", ".path", ".download", ".memory_limit")


def settings_by_key(settings: Any, prefix: str = "") -> dict[str, tuple[Any, "Field[Any]"]]:
    """Every single setting by its full key, ``schedule.adapt.epochs``: the object that holds it, and its field."""
    found: dict[str, tuple[Any, Field[Any]]] = {}
    for each in fields(settings):
        key, value = prefix + each.name, getattr(settings, each.name)
        if is_dataclass(value):
            found |= settings_by_key(value, f"{key}.")
        elif isinstance(value, dict):
            for name, inner in value.items():
                found |= settings_by_key(inner, f"{key}.{name}.")
        else:
            found[key] = settings, each
    return found


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """A copy of the settings with other values, by full keys such as ``schedule.adapt.epochs``.

    Raises:
        KeyError: there is no setting with a key.
    """
    changed = deepcopy(settings)
    known = settings_by_key(changed)
    for key, value in values.items():
        holder, each = known[key]
        setattr(holder, each.name, deepcopy(value))
    return changed


def deciding_keys(keys: Iterable[str]) -> list[str]:
    """Of the full keys of settings those that change more than where and how results are told."""
    return [
        key
        for key in keys
        if not key.startswith(_TELLING)
        and not (key.startswith(("data.", "baseline_data.")) and key.endswith(_PLACES))
    ]
