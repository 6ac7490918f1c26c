"""Secrets in settings that would be written down as they are."""

from bnadapt.config import Settings, settings_by_key
from bnadapt.secrets import redacted, variables_within

MAY_HOLD_ONE = (
    "tracking.uri",
    "search.storage",
)  # addresses of databases; redacted wherever they are written


def secrets_in_settings(settings: Settings) -> list[str]:
    """Settings whose values become names of directories and entries of MLflow, and hold a secret.

    What stands in the program itself is none: defaults, and words to choose from.
    """
    mistakes = []
    for key, (holder, setting) in settings_by_key(settings).items():
        value = getattr(holder, setting.name)
        if key in MAY_HOLD_ONE or value == setting.default or value in setting.metadata.get("choices", ()):
            continue
        text = f"{key}={value}"
        if redacted(text) != text:
            names = variables_within(text)
            origin = f"the value of the environment variable {' and '.join(names)}" if names else "a password"
            mistakes.append(
                f"{redacted(text)}: this holds {origin}, and would be written down as it is; leave it out (only "
                f"{' and '.join(MAY_HOLD_ONE)} may hold a password)"
            )
    return mistakes
