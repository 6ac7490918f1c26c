"""What may be concluded: the best stage by validation, compared on the test images with the controls."""

from bnadapt.config import BASELINE, CONTROL
from bnadapt.evaluation.results import Difference, Scores, StageResult, Verdict
from bnadapt.evaluation.significance import CONFIDENCE, difference

NAMES = {BASELINE: "the untouched baseline", CONTROL: "the baseline trained further without BN"}


def best_stage(results: list[StageResult]) -> StageResult:
    """The stage with the highest validation accuracy; the control is none.

    Of stages that tie, as on few images they often do, the one with the lowest validation loss, and of those
    whose losses agree to four decimals the earliest: what changed nothing is no improvement.

    Raises:
        ValueError: no stage has validation scores.
    """
    scored = [
        (*rank_of(result.validation), result)
        for result in results
        if result.validation is not None and result.name != CONTROL
    ]
    return max(scored, key=lambda each: each[:2])[2]


def rank_of(scores: Scores) -> tuple[float, float]:
    """What makes one network better than another: accuracy, then the loss to four decimals."""
    return scores.accuracy, -round(scores.loss, 4)


def judge(results: list[StageResult], *, resamples: int, things: str = "images") -> Verdict:
    """Compare the best stage by validation with the untouched baseline and with the control, on the test images.

    A difference counts where its interval leaves out zero and McNemar's p-value is below 0.05: where few
    images differ the interval alone is too narrow. ``helped`` means that the best stage beats the baseline
    and the control; ``uncontrolled`` that it beats the baseline and there is no control; ``hurt`` that one
    of them beats it; anything else is ``no difference`` that these data can show. ``things`` is what the data consist
    of, in the sentences: ``images`` or ``rows``.
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
    images = 0 if best.test is None else len(best.test.correct)
    kept = f"Best stage by validation: {best.name}"
    if best.test is not None:
        kept += f" ({100 * best.test.accuracy:.1f} % of {images:,} test {things} right)"
    sentences = [_reading(answer, best.name, others, f"{images:,} test {things}"), f"{kept}."]
    sentences += [
        f"Against {NAMES[name]}: {points(each)}, {_counts(each, things)}." for name, each in others.items()
    ]
    if answer == "uncontrolled":
        sentences.append("There is no control: more training alone may have done as much.")
    return Verdict(best.name, tuple(sentences), against.get(BASELINE), against.get(CONTROL), answer)


def points(difference: Difference) -> str:
    """A difference of accuracies in percentage points with its interval."""
    return f"{signed(difference.estimate)} points ({_interval(difference)})"


def shows_more(difference: Difference) -> bool:
    """Whether the data show that the first of the two networks is right more often."""
    return difference.low > 0 and difference.p_value < 1 - CONFIDENCE


def shows_less(difference: Difference) -> bool:
    """Whether the data show that the first of the two networks is right less often."""
    return difference.high < 0 and difference.p_value < 1 - CONFIDENCE


def _answer(best: str, others: dict[str, Difference]) -> str:
    if not others:
        return "no difference" if best == BASELINE else "not compared"
    if any(shows_less(each) for each in others.values()):
        return "hurt"
    if best != BASELINE and all(shows_more(each) for each in others.values()):
        return "helped" if CONTROL in others else "uncontrolled"
    return "no difference"


def _reading(answer: str, best: str, others: dict[str, Difference], tested: str) -> str:
    """The answer in a sentence, with the difference that decided it."""
    match answer:
        case "not compared":
            return "Nothing was compared: there is no baseline among the stages."
        case "no difference" if not others:
            return "Adapting did not help: nothing after the baseline did better on validation."
    deciding = [name for name, each in others.items() if _decides(answer, each)]
    rival = min(deciding, key=lambda name: others[name].estimate)
    subject = NAMES.get(best, best)
    differs = f"{subject} differs by {points(others[rival])} from {NAMES[rival]}"
    match answer:
        case "helped" | "uncontrolled":
            start = "Adapting helped" if answer == "helped" else "Better than before"
            over = f" over {NAMES[rival]}" if len(others) > 1 else ""
            beaten = " and ".join(NAMES[name] for name in others)
            return f"{start}: {best} beats {beaten}, by {points(others[rival])}{over}."
        case "hurt" if rival == BASELINE:
            return f"Adapting hurt: {differs}."
        case "hurt":
            return f"Adapting did not pay: {differs}."
        case _ if best == BASELINE:
            return f"Adapting did not help: nothing after the baseline did better on validation; {differs}."
        case _:
            return f"No difference that these {tested} can show: {differs}."


def _decides(answer: str, difference: Difference) -> bool:
    return (
        shows_less(difference)
        if answer == "hurt"
        else answer != "no difference" or not shows_more(difference)
    )


def _counts(difference: Difference, things: str) -> str:
    return f"{difference.gained} {things} gained, {difference.lost} lost, McNemar's {_p_value(difference.p_value)}"


def _p_value(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}" if value < 0.1 else f"p = {value:.2f}"


def _interval(difference: Difference) -> str:
    return f"95 % interval {signed(difference.low)} to {signed(difference.high)}"


def signed(share: float) -> str:
    """A share in percentage points; adding zero turns a negative zero, which would read as a loss, into a plain one."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"
