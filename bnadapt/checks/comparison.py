"""Contradictions in a comparison."""

import math

from bnadapt.checks.selectors import selector_mistakes
from bnadapt.config import STATISTICS, UNTOUCHED, ArmSettings, Settings

BATCH_NORM_TRAINS = {"all", "batch_norm"}  # of what a stage trains


def comparison_mistakes(settings: Settings) -> list[str]:
    """What is wrong with a comparison: nothing where there are no arms."""
    comparison, key = settings.comparison, "comparison"
    if not comparison.arms:
        return []
    mistakes = []
    if settings.search.space:
        mistakes.append("comparison.arms and search.space both say what to run: one at a time")
    for name, value in (("stages", settings.stages), ("from_run", settings.from_run)):
        if value is not None:
            mistakes.append(f"{name}={value} is not used by a comparison, which runs all of its arms anew")
    names = list(comparison.arms)
    unknown = [name for name in comparison.only or [] if name not in names]
    if unknown:
        mistakes.append(f"{key}.only: no arm is called {', '.join(unknown)}; there are {', '.join(names)}")
    mistakes += [
        f"{key}.arms.{needed} is missing, which the other arms are compared with; there are {', '.join(names)}"
        for needed in dict.fromkeys((UNTOUCHED, comparison.reference))
        if needed not in names
    ]
    for name, least in (("seeds", 1), ("learning_rates", 1), ("labels_per_class", 0)):
        values = getattr(comparison, name)
        if len(values) < least or len(set(values)) < len(values):
            mistakes.append(f"{key}.{name}={values}: give {'at least one, ' if least else ''}each once")
    if not all(0 < rate < math.inf for rate in comparison.learning_rates):
        mistakes.append(f"{key}.learning_rates={comparison.learning_rates}: must be numbers greater than 0")
    if any(seed < 0 or settings.seed + seed >= 2**32 for seed in comparison.seeds):
        mistakes.append(
            f"{key}.seeds={comparison.seeds}: must be at least 0, and with seed={settings.seed} below {2**32}"
        )
    if any(labels is not None and labels < 1 for labels in comparison.labels_per_class):
        mistakes.append(
            f"{key}.labels_per_class={comparison.labels_per_class}: must be at least 1, or null for all"
        )
    if comparison.labels_per_class and settings.data.labels_fraction is not None:
        mistakes.append(
            f"{key}.labels_per_class={comparison.labels_per_class} and data.labels_fraction="
            f"{settings.data.labels_fraction} both say how many images have labels: give one of them"
        )
    for name, arm in comparison.arms.items():
        if comparison.only is not None and name not in {*comparison.only, UNTOUCHED, comparison.reference}:
            continue
        mistakes += _arm_mistakes(f"{key}.arms.{name}", arm, settings)
    return mistakes


def _arm_mistakes(key: str, arm: ArmSettings, settings: Settings) -> list[str]:
    mistakes = []
    if arm.position != "none" and settings.placement.position == "none" and not settings.placement.on_input:
        mistakes.append(
            f"{key}.position={arm.position} needs a placement; placement=none inserts nothing: take "
            "placement=before_activation, or leave the arm out with comparison.only"
        )
    for name, stage in arm.schedule.items():
        mistakes += selector_mistakes(f"{key}.schedule.{name}.train", stage.train)
        if STATISTICS in stage.train and len(stage.train) > 1:
            mistakes.append(
                f"{key}.schedule.{name}.train={stage.train}: statistics stands alone; make two stages of it"
            )
    shares = [stage.share for stage in arm.schedule.values() if stage.train != [STATISTICS]]
    if shares and abs(sum(shares) - 1) > 1e-6:
        mistakes.append(
            f"{key}: the shares of its stages are {sum(shares):g} in all; every arm gets 1, the same steps"
        )
    if shares and settings.comparison.steps * min(shares) < 1:
        mistakes.append(
            f"comparison.steps={settings.comparison.steps}: {key} has a stage of {min(shares):g} of them; give at "
            f"least {math.ceil(1 / min(shares))}"
        )
    normalizes = any(
        stage.normalize == "batch" and BATCH_NORM_TRAINS & {*stage.train} for stage in arm.schedule.values()
    )
    if settings.data.batch_size == 1 and arm.position != "none" and normalizes:
        mistakes.append(
            f"data.batch_size=1: {key} normalizes with the batch, which needs more than one image per step; take "
            f"data.batch_size=16 or more, or leave the arm out with comparison.only"
        )
    return mistakes
