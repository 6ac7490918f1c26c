"""Checks of a search's space: which settings a range can fill, and with what. Standard library only."""

import difflib
import math
import types
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, get_args, get_origin

from bnadapt.config import RangeSettings, Settings
from bnadapt.setting_keys import settings_by_key, with_values

BATCH_SIZE = "data.batch_size"
SEARCHED = ("placement.", "insertion.", "schedule.", BATCH_SIZE)
# Why the other settings cannot be searched; the first that fits.
_REFUSED = {
    "data.": "other data would not be comparable; of the data a search varies data.batch_size alone",
    "baseline_data.": "the baseline is trained once for the whole search",
    "baseline.": "the baseline is trained once for the whole search",
    "model.": "the baseline is trained once for the whole search",
    "seed": "a lucky seed is no better setting",
    "": "it changes nothing that a trial does",
}


def space_mistakes(settings: Settings, mistakes_of: Callable[[Settings], list[str]]) -> list[str]:
    """What is wrong with ``search``: nothing where there is no space.

    Args:
        settings: Any settings.
        mistakes_of: All that is wrong with settings beside their search; asked about every end and every choice.
    """
    search = settings.search
    if not search.space:
        return []
    mistakes = [
        f"{name}={value} is not used by a search, whose trials all run from the baseline to the last stage"
        for name, value in (("stages", settings.stages), ("from_run", settings.from_run))
        if value is not None
    ]
    if search.storage == settings.tracking.uri:
        mistakes.append(
            f"search.storage={search.storage} is MLflow's store (tracking.uri): Optuna needs one of its own, such as "
            "search.storage=sqlite:///search.db"
        )
    if (
        "://" not in search.storage
        or search.storage.startswith(("sqlite:///:memory:", "sqlite:///?"))
        or (search.storage in ("sqlite://", "sqlite:///"))
    ):
        mistakes.append(
            f"search.storage={search.storage}: name a database that outlives the process, such as "
            "search.storage=sqlite:///search.db"
        )
    keys = [each.key for each in search.space.values()]
    before = set(mistakes_of(settings))
    for name, each in search.space.items():
        place = f"search.space.{name}"
        wrong = _key_mistakes(settings, place, each.key, keys) or _range_mistakes(settings, place, each)
        mistakes += wrong or [
            f"{place}: {mistake}"
            for value in each.choices or [each.low, each.high]
            for mistake in mistakes_of(with_values(settings, {each.key: value}))
            if mistake not in before
        ]
    return mistakes


def _key_mistakes(settings: Settings, place: str, key: str, keys: list[str]) -> list[str]:
    known = settings_by_key(settings)
    without = f"or leave the range out: ~{place}"
    if key not in known:
        close = difflib.get_close_matches(key, [each for each in known if each.startswith(SEARCHED)], n=3)
        meant = f"did you mean {' or '.join(close)}" if close else "give a key such as insertion.init"
        return [f"{place}.key={key}: there is no such setting; {meant}, {without}"]
    if not key.startswith(SEARCHED):
        reason = next(reason for start, reason in _REFUSED.items() if key.startswith(start))
        return [f"{place}.key={key} cannot be searched: {reason}"]
    if keys.count(key) > 1:
        return [f"{place}.key={key}: another range has the same setting; one of them is enough"]
    return []


def _range_mistakes(settings: Settings, place: str, each: RangeSettings) -> list[str]:
    """What is wrong with a range beside its values' limits."""
    _, field = settings_by_key(settings)[each.key]
    kinds = _kinds(field.type)
    given = {
        name: value for name, value in asdict(each).items() if name in ("low", "high") and value is not None
    }
    if bool(given) == bool(each.choices):
        return [f"{place}: give either low and high or choices, and not {'both' if given else 'neither'}"]
    if each.choices:
        return _choice_mistakes(place, each, kinds)
    if len(given) == 1:
        return [
            f"{place}: low and high make an interval; {'high' if each.high is None else 'low'} is missing"
        ]
    if not {int, float} & set(kinds):
        return [f"{place}: {each.key} takes no numbers, so an interval cannot fill it; give choices"]
    assert each.low is not None
    assert each.high is not None
    if not (math.isfinite(each.low) and math.isfinite(each.high) and each.low < each.high):
        return [f"{place}: low={each.low} must be less than high={each.high}"]
    if each.log and each.low <= 0:
        return [f"{place}: low={each.low} must be greater than 0 with log=true"]
    if float not in kinds and not (float(each.low).is_integer() and float(each.high).is_integer()):
        return [f"{place}: {each.key} takes whole numbers: low={each.low} and high={each.high} must be some"]
    return []


def _choice_mistakes(place: str, each: RangeSettings, kinds: tuple[Any, ...]) -> list[str]:
    mistakes = [
        f"{place}.choices: {value!r} is no value for {each.key}, which takes {_in_words(kinds)}"
        for value in each.choices
        if not _fits(value, kinds)
    ]
    if each.log:
        mistakes.append(f"{place}: log=true is used with low and high only")
    if any(value in each.choices[:place] for place, value in enumerate(each.choices)):
        mistakes.append(f"{place}.choices={each.choices}: give each value once")
    return mistakes


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that a setting takes: ``(float, NoneType)`` of ``float | None``."""
    return get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)


def _fits(value: Any, kinds: tuple[Any, ...]) -> bool:
    for kind in kinds:
        if get_origin(kind) is list:
            inner = _kinds(get_args(kind)[0])
            if isinstance(value, list) and all(_fits(each, inner) for each in value):
                return True
        elif type(value) is kind or (kind is float and type(value) is int):
            return True
    return False


def _in_words(kinds: tuple[Any, ...]) -> str:
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a word",
        type(None): "null",
    }
    return " or ".join(words.get(kind, "a list") for kind in kinds)
