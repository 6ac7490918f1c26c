"""Secrets in settings that would be written down as they are."""

from dataclasses import MISSING, Field
from typing import Any

from bnadapt.config import Settings
from bnadapt.secrets import redacted, variables_within
from bnadapt.setting_keys import settings_by_key

MAY_HOLD_ONE = (
    "tracking.uri",
    "search.storage",
)  # addresses of databases; redacted wherever they are written


def secrets_in_settings(settings: Settings) -> list[str]:
    """Settings whose values become names of directories and entries of MLflow, and hold a secret.

    What stands in the program itself is none: defaults, and words to choose from.
    """
    mistakes: dict[str, None] = {}  # one for all settings of a stage that is called after a secret
    for key, (holder, setting) in settings_by_key(settings).items():
        value = getattr(holder, setting.name)
        owner = key.rpartition(".")[0]
        for named in owner.split(".")[1:]:  # stages and arms, by names that the user chose
            if redacted(named) != named:
                mistakes[_mistake(owner, named)] = None
        if (
            key not in MAY_HOLD_ONE
            and not _is_programs(value, setting)
            and redacted(str(value)) != str(value)
        ):
            mistakes[_mistake(f"{key}={value}", str(value))] = None
    return list(mistakes)


def _is_programs(value: Any, setting: "Field[Any]") -> bool:
    default = setting.default if setting.default_factory is MISSING else setting.default_factory()
    return bool(value == default) or value in setting.metadata.get("choices", ())


def _mistake(shown: str, text: str) -> str:
    names = variables_within(text)
    origin = f"the value of the environment variable {' and '.join(names)}" if names else "a password"
    return (
        f"{redacted(shown)}: this holds {origin}, and would be written down as it is; leave it out (only "
        f"{' and '.join(MAY_HOLD_ONE)} may hold a password)"
    )
