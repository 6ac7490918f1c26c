"""What a search draws from, in Optuna's terms, and what it has drawn, as values of settings."""

import re
from typing import Any

import optuna

from bnadapt.config import RangeSettings, Settings
from bnadapt.setting_keys import settings_by_key

DIGITS = 3  # of a drawn number that is no choice: what can be typed again is what was tried
_READ_AS_SOMETHING_ELSE = {"null", "true", "false", "nan", "inf"}


def draw(trial: optuna.Trial, settings: Settings) -> dict[str, Any]:
    """Draw a value for every range of ``settings.search.space``; returns them by the keys of their settings.

    Optuna knows a range by its name in the space, and a choice by its text: its storage takes no lists.
    """
    known = settings_by_key(settings)
    drawn = {}
    for name, each in settings.search.space.items():
        holder, field = known[each.key]
        drawn[each.key] = _draw(trial, name, each, field.type, getattr(holder, field.name))
    return drawn


def standing(settings: Settings) -> dict[str, Any]:
    """The values that the settings have now, by the keys of the search's ranges."""
    known = settings_by_key(settings)
    return {
        each.key: getattr(known[each.key][0], known[each.key][1].name)
        for each in settings.search.space.values()
    }


def as_drawn(settings: Settings) -> dict[str, Any] | None:
    """The settings as they stand as Optuna would have drawn them; None where the space leaves one of them out."""
    values, drawn = standing(settings), {}
    for name, each in settings.search.space.items():
        value = values[each.key]
        if each.choices:
            equal = [as_override(choice) for choice in each.choices if choice == value]
            if not equal:
                return None
            drawn[name] = equal[0]
        else:
            low, high = _ends(each)
            if value is None or not low <= value <= high:
                return None
            drawn[name] = value
    return drawn


def as_override(value: Any) -> str:
    """A value as it is written on the command line behind ``key=``."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_override, value))}]"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in _READ_AS_SOMETHING_ELSE
        # In Hydra's quotes a backslash is one, save before a quote, where it takes two.
        quoted = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), value)
        return value if plain else f"'{quoted}'"
    return repr(value)


def _draw(trial: optuna.Trial, name: str, each: RangeSettings, kind: Any, value: Any) -> Any:
    if each.choices:
        by_text = {as_override(choice): choice for choice in each.choices}
        return by_text[trial.suggest_categorical(name, list(by_text))]
    low, high = _ends(each)
    if kind in (int, int | None):
        return trial.suggest_int(name, int(low), int(high), log=each.log)
    drawn = trial.suggest_float(name, low, high, log=each.log)
    # The settings as they stand are tried exactly as they stand.
    return drawn if drawn == value else min(max(float(f"{drawn:.{DIGITS}g}"), low), high)


def _ends(each: RangeSettings) -> tuple[float, float]:
    assert each.low is not None  # checked with the settings
    assert each.high is not None
    return each.low, each.high
