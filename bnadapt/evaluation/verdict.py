"""What may be concluded: the best stage by validation, compared on the test images with the controls."""

import numpy as np

from bnadapt.config import BASELINE, CONTROL
from bnadapt.evaluation.results import Difference, Scores, StageResult, Verdict

CONFIDENCE = 0.95
NAMES = {BASELINE: "the untouched baseline", CONTROL: "the baseline trained further without BN"}


def best_stage(results: list[StageResult]) -> StageResult:
    """The stage with the highest validation accuracy; the control is none.

    Of stages that tie, as on few images they often do, the one with the lowest validation loss, and of those
    whose losses agree to four decimals the earliest: what changed nothing is no improvement.

    Raises:
        ValueError: no stage has validation scores.
    """
    scored = [
        (result.validation.accuracy, -round(result.validation.loss, 4), result)
        for result in results
        if result.validation is not None and result.name != CONTROL
    ]
    return max(scored, key=lambda each: each[:2])[2]


def difference(first: Scores, second: Scores, *, resamples: int, seed: int = 0) -> Difference:
    """Accuracy of the first minus the second, with the paired bootstrap's 95 % percentile interval.

    Both scores are of the same images in the same order. Per image the difference is -1, 0 or 1, so that a
    resample of the images is one draw from a multinomial distribution over the three counts
    (Efron & Tibshirani 1993, chapter 13).

    Raises:
        ValueError: the scores are of different numbers of images.
    """
    if first.correct.shape != second.correct.shape:
        raise ValueError(
            f"scores of {first.correct.size} and of {second.correct.size} images cannot be paired"
        )
    per_image = first.correct.astype(int) - second.correct.astype(int)
    images = per_image.size
    shares = np.array([(per_image == -1).mean(), (per_image == 0).mean(), (per_image == 1).mean()])
    counts = np.random.default_rng(seed).multinomial(images, shares / shares.sum(), size=resamples)
    estimates = (counts[:, 2] - counts[:, 0]) / images
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(estimates, [tail, 1 - tail])
    return Difference(float(per_image.mean()), float(low), float(high))


def judge(results: list[StageResult], *, resamples: int) -> Verdict:
    """Compare the best stage by validation with the untouched baseline and with the control, on the test images.

    ``helped`` means that the best stage beats the baseline and the control, with intervals above zero;
    ``uncontrolled`` that it beats the baseline and there is no control; ``hurt`` that one of them beats it,
    with an interval below zero; anything else is ``no difference`` that these data can show.
    """
    best = best_stage(results)
    tested = {result.name: result.test for result in results if result.test is not None}
    against = {
        name: difference(best.test, tested[name], resamples=resamples)
        for name in NAMES
        if name in tested and best.test is not None
    }
    others = {name: each for name, each in against.items() if name != best.name}
    answer = _answer(best.name, others)
    kept = f"Best stage by validation: {best.name}"
    if best.test is not None:
        kept += f" ({100 * best.test.accuracy:.1f} % of test images right)"
    sentences = [f"{_reading(answer, best.name, others)} {kept}."]
    sentences += [f"Against {NAMES[name]}: {points(each)}." for name, each in others.items()]
    if answer == "uncontrolled":
        sentences.append("There is no control: more training alone may have done as much.")
    return Verdict(best.name, tuple(sentences), against.get(BASELINE), against.get(CONTROL), answer)


def points(difference: Difference) -> str:
    """A difference of accuracies in percentage points with its interval."""
    # Adding zero turns a negative zero, which would read as a loss, into a plain one.
    estimate, low, high = (
        f"{round(100 * share, 1) + 0.0:+.1f}"
        for share in (difference.estimate, difference.low, difference.high)
    )
    return f"{estimate} points (95 % interval {low} to {high})"


def _answer(best: str, others: dict[str, Difference]) -> str:
    if not others:
        return "no difference" if best == BASELINE else "not compared"
    if any(each.high < 0 for each in others.values()):
        return "hurt"
    if best != BASELINE and all(each.low > 0 for each in others.values()):
        return "helped" if CONTROL in others else "uncontrolled"
    return "no difference"


def _reading(answer: str, best: str, others: dict[str, Difference]) -> str:
    better = " and ".join(NAMES[name] for name, each in others.items() if each.high < 0)
    match answer:
        case "helped" | "uncontrolled":
            start = "Adapting helped" if answer == "helped" else "Better than before"
            return f"{start}: it beats {' and '.join(NAMES[name] for name in others)}."
        case "hurt":
            return f"Adapting did not pay: {better} did better on the test images."
        case "not compared":
            return "Nothing was compared: there is no baseline among the stages."
        case _ if best == BASELINE:
            return "Adapting did not help: nothing after the baseline did better on validation."
        case _:
            return "These data do not show that adapting helped."
