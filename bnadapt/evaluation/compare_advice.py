"""What to try next after a comparison, by stated rules.

Which arm, rate or number of steps is advised goes by training and the validation images alone; the test images say
only how sure the comparison is.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bnadapt.config import UNTOUCHED
from bnadapt.evaluation.advice import FEW_LABELS, STILL_FALLING, UNSURE
from bnadapt.evaluation.arms import ArmResult, Comparison
from bnadapt.evaluation.compare import behind, by_arm
from bnadapt.evaluation.compare_evidence import Evidence, Level
from bnadapt.evaluation.compare_wording import counted, named
from bnadapt.evaluation.resampling import mean_interval, paired, quantile, spread
from bnadapt.evaluation.results import Advice
from bnadapt.evaluation.significance import Z_95

# Each rule's threshold.
WIDE = 0.01  # half of the interval of the recommended arm's gain
MORE_LABELS = 0.01  # gain of validation accuracy from one number of labels to the next
FEW_SEEDS = 3  # below which the intervals hold the truth in some 90 % of simulated cases instead of 95 %
OUTNUMBERED = 2  # validation images for each labelled training image
WORSE_CALIBRATED = 0.03  # rise of the calibration error on validation
ENOUGH_TO_CALIBRATE = 200  # validation images below which a calibration error is mostly chance


def comparison_advice(
    comparisons: Sequence[Comparison],
    results: Sequence[ArmResult],
    *,
    validation_limit: int | None = None,
    training_images: int | None = None,
) -> tuple[Advice, ...]:
    """What to try next, the most pressing first; () where no rule applies.

    Of several numbers of labels the largest is advised on, but for the rules that compare them.

    Args:
        comparisons: One for each number of labels.
        results: Of all their arms and seeds.
        validation_limit: Validation images that the settings allow at most; None for no limit.
        training_images: Labelled images that arms train on with the fewest labels; None if unknown.
    """
    levels = [
        Level(each, by_arm([result for result in results if result.labels == each.labels]))
        for each in sorted(comparisons, key=lambda each: math.inf if each.labels is None else each.labels)
    ]
    if not levels:
        return ()
    evidence = Evidence(levels, validation_limit, training_images)
    found = [(name, rule(evidence)) for name, rule in RULES]
    return tuple(Advice(name, sentence) for name, sentence in found if sentence is not None)


def _no_reference(evidence: Evidence) -> str | None:
    """The reference did not run: run it."""
    comparison = evidence.last.comparison
    if comparison.reference in evidence.last.arms:
        return None
    return (
        f"The reference {comparison.reference} did not run, so that gains may come from more training alone: put it "
        "into comparison.only, or name another with comparison.reference"
    )


def _rate_at_edge(evidence: Evidence) -> str | None:
    """The recommended arm or the reference did best at the lowest or highest rate tried and worse next to it."""
    new: set[float] = set()
    tried: set[float] = set()
    told = []
    for each in evidence.last.rivals:
        accuracy = _accuracy_of_rates(each)
        kept = {result.learning_rate for result in each}
        tried |= accuracy.keys()
        beyond = _beyond(accuracy, kept.pop()) if len(kept) == 1 else None
        if beyond is not None:
            new.add(beyond)
            place, edge = ("lowest", min(accuracy)) if beyond < min(accuracy) else ("highest", max(accuracy))
            told.append(f"{each[0].arm} did best at the {place} learning rate tried ({edge:g})")
    if not new:
        return None
    rates = ",".join(f"{rate:.3g}" for rate in sorted(tried | new))
    return f"{'; '.join(told)}: go on in that direction, comparison.learning_rates=[{rates}]"


def _more_steps(evidence: Evidence) -> str | None:
    """In the recommended arm or the reference validation loss fell by 2 % at the last look and accuracy rose: go on."""
    for each in evidence.last.rivals:
        if each[0].learning_rate is None or len({len(result.history) for result in each}) > 1:
            continue
        losses = np.array([[epoch.val_loss for epoch in result.history] for result in each]).mean(axis=0)
        accuracies = np.array([[epoch.val_accuracy for epoch in result.history] for result in each]).mean(
            axis=0
        )
        if len(losses) < 2 or not losses[-1] < (1 - STILL_FALLING) * losses[:-1].min():
            continue
        if accuracies[-1] > accuracies[:-1].max():
            return (
                f"{each[0].arm} was still getting better at the last look (validation loss {losses[-2]:.3g} to "
                f"{losses[-1]:.3g}): more steps for every arm, comparison.steps={2 * each[0].steps}"
            )
    return None


def _few_seeds(evidence: Evidence) -> str | None:
    """There are fewer than 3 seeds: with one their scatter is unknown, with two the intervals are too narrow."""
    seeds = len(evidence.last.recommended)
    if seeds >= FEW_SEEDS:
        return None
    few = (
        "One seed does not tell how much the order of images and the choice of labelled ones matter, and the "
        "intervals leave that out"
        if seeds == 1
        else "Two seeds tell too little of how much seeds scatter, and the intervals come out too narrow: they hold "
        "the truth in some 90 % of cases instead of 95 %"
    )
    return f"{few}: three or more, comparison.seeds=[0,1,2]"


def _interval_too_wide(evidence: Evidence) -> str | None:
    """No difference is shown, and the interval is wider than 1 point either way: more of what makes most of it."""
    level = evidence.last
    comparison, seeds = level.comparison, len(level.recommended)
    if comparison.answer != "no difference" or comparison.recommended in (comparison.reference, UNTOUCHED):
        return None
    gain = next(arm for arm in comparison.arms if arm.arm == comparison.recommended).against_reference
    tests = [[each.test for each in arm if each.test is not None] for arm in level.rivals]
    if gain is None or (gain.high - gain.low) / 2 <= WIDE or len(tests) < 2:
        return None
    values = paired(tests[0], tests[1])
    found = spread(values)
    start = f"The gain over {comparison.reference} is known to {100 * (gain.high - gain.low) / 2:.1f} points either way"
    # What the interval would be were there only the images. The rest of its square is the seeds': that they
    # scatter, and that few of them know their scatter badly.
    by_images, whole = Z_95**2 * found.images, quantile(found.freedom) ** 2 * found.error**2
    if by_images < whole / 2:
        wanted = ",".join(map(str, range(max(5, 2 * seeds))))
        return (
            f"{start}, mostly because the {counted(seeds, 'seed')} are few and differ, less because of "
            f"the test images: comparison.seeds=[{wanted}]"
        )
    images = math.ceil(values.shape[1] * found.images * (Z_95 / WIDE) ** 2 / 100) * 100
    if images <= values.shape[1]:
        return None
    others, told = "", "tell it"
    if by_images < 0.99 * whole:
        others, told = ", less because the seeds differ", "bring their part"
    return (
        f"{start}, mostly because of the {counted(values.shape[1], 'test image')}{others}: some {images:,} would "
        f"{told} to {100 * WIDE:.0f} point (data.test_fraction, where test images are held out)"
    )


def _validation_too_small(evidence: Evidence) -> str | None:
    """Validation knows an accuracy to 2 points at best and others lie within one standard error: hold out more."""
    level, images, limit = evidence.last, evidence.validation_images, evidence.validation_limit
    low, high = mean_interval([each.validation for each in level.recommended])
    if not level.near or (high - low) / 2 <= UNSURE:
        return None
    names = level.near
    others = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    # A limit that lies above what is held out cuts nothing off.
    capped = limit is not None and images >= limit
    more = (
        f"allow more of them, data.validation_limit (now {limit})"
        if capped
        else "hold out more of them, data.validation_fraction"
    )
    return (
        f"{counted(images, 'validation image')} cannot tell {level.comparison.recommended} from {others} (within one "
        f"standard error): {more}"
    )


def _more_to_choose_by_than_to_train_on(evidence: Evidence) -> str | None:
    """Validation has twice as many labelled images as training with the fewest labels, or more: say so."""
    labelled, images = evidence.training_images, evidence.validation_images
    if not labelled or images < OUTNUMBERED * labelled:
        return None
    fewest = " with the fewest labels" if len(evidence.levels) > 1 else ""
    return (
        f"The arm and its rate were chosen on {counted(images, 'labelled validation image')}, more than the "
        f"{counted(labelled, 'labelled image')} that arms train on{fewest}: with fewer to choose by the choice is less "
        f"sure, data.validation_limit={labelled} shows how much"
    )


def _labels_not_needed(evidence: Evidence) -> str | None:
    """An arm without labels lies within one standard error of the recommended one, which has them: save the labels."""
    level = evidence.last
    if level.recommended[0].learning_rate is None:
        return None
    free = [name for name in level.near if all(each.learning_rate is None for each in level.arms[name])]
    if not free:
        return None
    best = max(free, key=lambda name: np.mean([each.validation.accuracy for each in level.arms[name]]))
    return (
        f"No labels are needed for {named(best)}, which lies within one standard error of "
        f"{level.comparison.recommended} on validation: they may not be worth their price here"
    )


def _labels_pay(evidence: Evidence) -> str | None:
    """From the last number of labels but one to the last, accuracy rose by 1 point and beyond chance: more."""
    if len(evidence.levels) < 2:
        return None
    fewer, more = evidence.levels[-2:]
    if [each.seed for each in fewer.recommended] != [each.seed for each in more.recommended]:
        return None
    gain, error = behind(more.recommended, fewer.recommended)
    if gain < MORE_LABELS or gain <= Z_95 * error:
        return None
    last = "all" if more.comparison.labels is None else f"{more.comparison.labels:,}"
    return (
        f"From {fewer.comparison.labels:,} to {last} labels of each class the recommended arm's validation accuracy "
        f"rose by {100 * gain:.1f} points: it has not levelled off, so label more images"
    )


def _few_labels(evidence: Evidence) -> str | None:
    """Fewer than 50 labels of each class were used, and no other number was tried: see what more would do."""
    labels = evidence.last.comparison.labels
    if len(evidence.levels) > 1 or labels is None or labels >= FEW_LABELS:
        return None
    return (
        f"With {counted(labels, 'label')} of each class: to see what more would bring, "
        f"comparison.labels_per_class=[{labels},{5 * labels}]"
    )


def _worse_calibrated(evidence: Evidence) -> str | None:
    """On 200 validation images or more the calibration error is 0.03 above the untouched baseline's: mend it."""
    level = evidence.last
    if UNTOUCHED not in level.arms or evidence.validation_images < ENOUGH_TO_CALIBRATE:
        return None
    before, after = (
        float(np.mean([each.validation.calibration_error for each in arm]))
        for arm in (level.arms[UNTOUCHED], level.recommended)
    )
    if not after - before > WORSE_CALIBRATED:
        return None
    return (
        f"The probabilities of {level.comparison.recommended} are further from the truth than the baseline's "
        f"(calibration error {after:.3f} against {before:.3f} on validation): where they matter, divide the logits by "
        "a temperature fitted to the validation images (Guo et al., 2017)"
    )


RULES: tuple[tuple[str, Callable[[Evidence], str | None]], ...] = (
    ("no reference", _no_reference),
    ("learning rate at the edge", _rate_at_edge),
    ("more steps", _more_steps),
    ("few seeds", _few_seeds),
    ("interval too wide", _interval_too_wide),
    ("validation too small", _validation_too_small),
    ("more to choose by than to train on", _more_to_choose_by_than_to_train_on),
    ("labels not needed", _labels_not_needed),
    ("more labels pay", _labels_pay),
    ("few labels", _few_labels),
    ("worse calibrated", _worse_calibrated),
)


def _accuracy_of_rates(results: Sequence[ArmResult]) -> dict[float, float]:
    """Mean validation accuracy at each rate tried; not a number where training ran away with some seed."""
    found: dict[float, list[float]] = {}
    for result in results:
        for rate in result.rates:
            found.setdefault(rate.learning_rate, []).append(rate.accuracy)
    return {rate: float(np.mean(accuracies)) for rate, accuracies in found.items()}


def _beyond(accuracy: Mapping[float, float], kept: float | None) -> float | None:
    """The next rate past the kept one, where that lies at the edge of those tried and is better than its neighbour."""
    rates = sorted(accuracy)
    if len(rates) < 2 or kept not in (rates[0], rates[-1]):
        return None
    edge, neighbour = (rates[0], rates[1]) if kept == rates[0] else (rates[-1], rates[-2])
    # A neighbour where training ran away has no accuracy, compares as false, and is worse.
    return None if accuracy[edge] <= accuracy[neighbour] else edge * edge / neighbour
