"""What is wrong with the words of a command although the settings that they make are sound. Standard library only."""

from collections.abc import Sequence

from bnadapt.config import Settings
from bnadapt.errors import SettingsError

# What every arm of a comparison says for itself, and where.
_OF_ARMS = {
    "schedule": "arms have stages of their own: comparison.arms.NAME.schedule",
    "insertion.init": "arms have one of their own: comparison.arms.NAME.init",
    "evaluation.control": "the reference arm is the control: comparison.reference=NAME",
}


def require_used_words(settings: Settings, command: Sequence[str]) -> None:
    """Refuse what a user typed and a comparison would not look at; settings do not tell it from their defaults.

    Args:
        settings: Checked settings.
        command: The words that the user typed.

    Raises:
        SettingsError: names every such word, and what to give instead.
    """
    if not settings.comparison.arms:
        return
    mistakes = [
        f"{word} is not used by a comparison: {reason}"
        for word in command[1:]
        for key, reason in _OF_ARMS.items()
        if ("=" in word or word.startswith("~"))
        and (word.lstrip("+~").partition("=")[0] + ".").startswith(key + ".")
    ]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
