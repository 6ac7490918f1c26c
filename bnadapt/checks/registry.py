"""Names that MLflow would refuse."""

import re

from bnadapt.config import EVALUATE, Settings


def registry_mistakes(settings: Settings) -> list[str]:
    """What MLflow's registry of models would refuse, found before anything is trained."""
    name, alias = settings.tracking.register_as, settings.tracking.alias
    mistakes = []
    if alias is not None and name is None:
        mistakes.append(
            f"tracking.alias={alias} needs a registered model to belong to: tracking.register_as=NAME"
        )
    if name is not None and (
        not name.strip() or name in (".", "..") or re.search("[/:]", name) or len(name) > 256
    ):
        mistakes.append(
            f"tracking.register_as={name}: a model's name has at most 256 characters, and no / and no :"
        )
    if alias is not None and (
        not re.fullmatch(r"[\w\-]{1,255}", alias)
        or alias.lower() == "latest"
        or re.fullmatch(r"[vV]\d+", alias)
    ):
        mistakes.append(
            f"tracking.alias={alias}: an alias is one word of letters, digits, underscores and hyphens, and "
            "neither latest nor a version's number such as v1"
        )
    if name is not None and not settings.tracking.log_models:
        mistakes.append(f"tracking.register_as={name} needs the networks in MLflow: tracking.log_models=true")
    if name is not None and settings.stages is not None and EVALUATE not in settings.stages:
        mistakes.append(
            f"tracking.register_as={name} registers the network that evaluate keeps, and stages={settings.stages} "
            "leaves it out"
        )
    return mistakes
