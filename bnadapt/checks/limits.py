"""Values out of the limits that stand beside their defaults."""

from dataclasses import fields, is_dataclass
from typing import Any


def values_out_of_range(settings: Any, prefix: str) -> list[str]:
    """Every value that is none of its choices or out of its limits; the prefix stands before the keys."""
    mistakes = []
    for each in fields(settings):
        key, value = prefix + each.name, getattr(settings, each.name)
        if is_dataclass(value):
            mistakes += values_out_of_range(value, f"{key}.")
            continue
        if isinstance(value, dict):
            for name, inner in value.items():
                mistakes += values_out_of_range(inner, f"{key}.{name}.")
            continue
        mistakes += _value_out_of_range(key, value, dict(each.metadata))
    return mistakes


def _value_out_of_range(key: str, value: Any, limits: dict[str, Any]) -> list[str]:
    if value is None or not limits:
        return []
    if limits["choices"] and value not in limits["choices"]:
        return [f"{key}={value}: choose one of {', '.join(map(str, limits['choices']))}"]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return []
    if value != value:
        return [f"{key}={value}: must be a number"]
    if limits["minimum"] is not None and value < limits["minimum"]:
        return [f"{key}={value}: must be at least {limits['minimum']}"]
    if limits["above"] is not None and value <= limits["above"]:
        return [f"{key}={value}: must be greater than {limits['above']}"]
    if limits["maximum"] is not None and value > limits["maximum"]:
        return [f"{key}={value}: must be at most {limits['maximum']}"]
    if limits["below"] is not None and value >= limits["below"]:
        return [f"{key}={value}: must be less than {limits['below']}"]
    return []
