"""Checks of values: every setting out of range and every contradiction, all of them at once.

Standard library only, so that a mistake is reported before TensorFlow is imported.
"""

from bnadapt.checks.comparison import comparison_mistakes
from bnadapt.checks.limits import values_out_of_range
from bnadapt.checks.pipeline import contradictions
from bnadapt.checks.registry import registry_mistakes
from bnadapt.checks.search import space_mistakes
from bnadapt.checks.secrets import secrets_in_settings
from bnadapt.config import Settings
from bnadapt.errors import SettingsError


def check(settings: Settings) -> None:
    """Raise a SettingsError that lists every value out of range and every contradiction; else return None."""
    mistakes = [*_mistakes(settings), *space_mistakes(settings, _mistakes)]
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def _mistakes(settings: Settings) -> list[str]:
    return [
        *values_out_of_range(settings, ""),
        *contradictions(settings),
        *comparison_mistakes(settings),
        *registry_mistakes(settings),
        *secrets_in_settings(settings),
    ]
