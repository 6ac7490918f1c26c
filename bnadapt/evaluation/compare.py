"""Which arm to use, by the validation images alone, and what the test images then show of it and of all others."""

from collections.abc import Mapping, Sequence

import numpy as np

from bnadapt.config import UNTOUCHED
from bnadapt.evaluation.arms import ArmResult, ArmSummary, Comparison
from bnadapt.evaluation.compare_wording import sentences_of
from bnadapt.evaluation.resampling import holm, mean_difference, mean_interval, paired, rights, spread
from bnadapt.evaluation.results import Difference, Scores
from bnadapt.evaluation.verdict import shows_less, shows_more

ByArm = dict[str, list[ArmResult]]


def compare(
    results: Sequence[ArmResult],
    *,
    reference: str,
    descriptions: Mapping[str, str],
    resamples: int,
    seed: int = 0,
) -> Comparison:
    """Recommend an arm and compare all of them on the test images, over seeds and images.

    The recommended arm was chosen without the test images, so that its own two comparisons need no correction.
    ``helped`` means that it beats the reference and the untouched baseline, each by an interval above zero and a
    p-value below 0.05; ``hurt`` that one of them beats it so; ``not compared`` that the reference did not run, and
    anything else is ``no difference`` that these data can show. Which of the other arms differ from the reference
    goes by p-values that are corrected for the number of arms.

    Args:
        results: Of all arms and seeds with one number of labels, with test scores; every arm with the same seeds.
        reference: Name of the arm that gains are measured against.
        descriptions: What each arm is, by name; an arm may lack one.
        resamples: Of seeds and images behind each interval.
        seed: Of the resampling.

    Raises:
        ValueError: there are no results, or several numbers of labels, an arm lacks a seed or has one twice, or the
            test images of some were not scored.
    """
    arms = by_arm(results)
    tests = {name: _tests(each) for name, each in arms.items()}

    def differs(first: str, second: str) -> Difference | None:
        if first == second or second not in tests:
            return None
        return mean_difference(tests[first], tests[second], resamples=resamples, seed=seed)

    against_reference = {name: differs(name, reference) for name in arms}
    against_untouched = {name: differs(name, UNTOUCHED) for name in arms}
    compared = {name: each for name, each in against_reference.items() if each is not None}
    adjusted = dict(zip(compared, holm([each.p_value for each in compared.values()]), strict=True))
    summaries = tuple(
        _summary(name, each, against_reference[name], against_untouched[name], adjusted.get(name))
        for name, each in arms.items()
    )
    recommended = recommend(results, reference)
    highest = _highest(arms)
    lead, error = behind(arms[highest], arms[recommended])
    reached = {each.arm: each.test for each in summaries}
    # Of arms that are equally right the recommended one, so that no other is called better than it.
    best = max(reached, key=lambda name: (round(reached[name], 12), name == recommended))
    rivals = {
        name: each
        for name, each in (
            (reference, against_reference[recommended]),
            (UNTOUCHED, against_untouched[recommended]),
        )
        if each is not None
    }
    answer = _answer(recommended, reference, reference in arms, rivals)
    return Comparison(
        labels=results[0].labels,
        reference=reference,
        recommended=recommended,
        best_in_hindsight=best,
        regret=max(reached[best] - reached[recommended], 0.0),
        arms=summaries,
        answer=answer,
        sentences=sentences_of(
            {each.arm: each for each in summaries},
            answer,
            recommended=recommended,
            reference=reference,
            best=best,
            rivals=rivals,
            description=descriptions.get(recommended, ""),
            seeds=len(arms[recommended]),
            images=tests[recommended][0].correct.size,
            behind=behind(arms[recommended], arms[best]),
            ahead=(highest, lead, error) if round(lead, 12) > 0 else None,
            validation_images=arms[recommended][0].validation.correct.size,
        ),
    )


def recommend(results: Sequence[ArmResult], reference: str) -> str:
    """The arm to use, from validation alone.

    Of the arms whose mean validation accuracy lies within one standard error of the highest, the one with the
    lowest mean validation loss; but the reference, unless that arm is right on more validation images than it.

    Accuracy alone, on the few images that validation mostly has, crowns whom chance favours. The loss, which uses
    each image's probability, decides better among arms that accuracy cannot tell apart, and worse among others,
    because it also pays for probabilities that are too sure (the one-standard-error rule of Breiman, Friedman,
    Olshen and Stone, 1984, section 3.4.3, with the loss instead of simplicity). The standard error is that of the
    difference on the same images and seeds. The arm with the highest accuracy is, of several, the one with the
    lower loss. Losses are compared to four decimals; of arms with the same the one that needs no labels wins,
    then the one that trains fewer parameters, then the first. An arm without labels needs only as many images
    right as the reference.

    Raises:
        ValueError: as :func:`compare`, but for test scores.
    """
    arms = by_arm(results)
    highest = _highest(arms)
    near = [name for name, each in arms.items() if _within_one_error(arms[highest], each)]
    chosen = min(near, key=lambda name: _effort(arms[name]))
    if reference not in arms:
        return chosen
    ahead = round(_accuracy(arms[chosen]) - _accuracy(arms[reference]), 12)
    return chosen if ahead > 0 or (ahead == 0 and not _with_labels(arms[chosen])) else reference


def behind(chosen: Sequence[ArmResult], other: Sequence[ArmResult]) -> tuple[float, float]:
    """Validation accuracy of the chosen arm minus that of another, and the standard error of the difference."""
    found = spread(paired(_validations(chosen), _validations(other)))
    return found.estimate, found.error


def by_arm(results: Sequence[ArmResult]) -> ByArm:
    """The results of each arm in the order of their seeds, the arms in the order in which they come.

    Raises:
        ValueError: there are no results, or several numbers of labels, or an arm lacks a seed or has one twice.
    """
    if not results:
        raise ValueError("nothing to compare: there are no results")
    levels = list(dict.fromkeys(result.labels for result in results))
    if len(levels) > 1:
        raise ValueError(
            f"results with labels_per_class {levels} are several comparisons: compare one at a time"
        )
    arms: ByArm = {}
    for result in results:
        arms.setdefault(result.arm, []).append(result)
    first = sorted({result.seed for result in results})
    for name, each in arms.items():
        each.sort(key=lambda result: result.seed)
        if (seeds := [result.seed for result in each]) != first:
            raise ValueError(f"arm {name} has results of the seeds {seeds}, needed is one of each of {first}")
    return arms


def _summary(
    name: str,
    results: Sequence[ArmResult],
    against_reference: Difference | None,
    against_untouched: Difference | None,
    adjusted: float | None,
) -> ArmSummary:
    tests = _tests(results)
    low, high = mean_interval(tests)
    return ArmSummary(
        arm=name,
        validation=float(np.mean([result.validation.accuracy for result in results])),
        test=float(rights(tests).mean()),
        low=low,
        high=high,
        macro_f1=float(np.mean([each.macro_f1 for each in tests])),
        calibration_error=float(np.mean([each.calibration_error for each in tests])),
        loss=float(np.mean([each.loss for each in tests])),
        learning_rates=tuple(result.learning_rate for result in results),
        trainable=max(result.trainable for result in results),
        seconds=float(np.mean([result.seconds for result in results])),
        against_reference=against_reference,
        against_untouched=against_untouched,
        adjusted=adjusted,
    )


def _answer(recommended: str, reference: str, has_reference: bool, rivals: Mapping[str, Difference]) -> str:
    if not has_reference:
        return "not compared"
    if any(shows_less(each) for each in rivals.values()):
        return "hurt"
    adapted = recommended not in (reference, UNTOUCHED)
    if adapted and rivals and all(shows_more(each) for each in rivals.values()):
        return "helped"
    return "no difference"


def _highest(arms: ByArm) -> str:
    """The arm that is right on most validation images; of several the one with the lower loss."""
    return min(arms, key=lambda name: (-round(_accuracy(arms[name]), 12), _effort(arms[name])))


def _accuracy(results: Sequence[ArmResult]) -> float:
    return float(rights(_validations(results)).mean())


def _effort(results: Sequence[ArmResult]) -> tuple[float, bool, int]:
    """Validation loss, then what the arm needs: labels, trained parameters. A loss that is no number comes last."""
    loss = round(float(np.mean([result.validation.loss for result in results])), 4)
    trainable = max(result.trainable for result in results)
    return (loss if np.isfinite(loss) else np.inf, _with_labels(results), trainable)


def _within_one_error(highest: Sequence[ArmResult], other: Sequence[ArmResult]) -> bool:
    distance, error = behind(highest, other)
    return distance <= error + 1e-12


def _with_labels(results: Sequence[ArmResult]) -> bool:
    return any(result.learning_rate is not None for result in results)


def _validations(results: Sequence[ArmResult]) -> list[Scores]:
    return [result.validation for result in results]


def _tests(results: Sequence[ArmResult]) -> list[Scores]:
    missing = [result for result in results if result.test is None]
    if missing:
        raise ValueError(
            f"arm {missing[0].arm} with seed {missing[0].seed} has no test scores: score every arm on the test images"
        )
    return [result.test for result in results if result.test is not None]
