"""What a comparison found, in plain sentences."""

from collections.abc import Mapping

from bnadapt.config import UNTOUCHED
from bnadapt.evaluation.arms import ArmSummary
from bnadapt.evaluation.results import Difference
from bnadapt.evaluation.significance import CONFIDENCE, Z_95
from bnadapt.evaluation.verdict import shows_less, shows_more, signed

SMALLEST_P = 1e-3  # that is written as a number


def sentences_of(
    arms: Mapping[str, ArmSummary],
    answer: str,
    *,
    recommended: str,
    reference: str,
    best: str,
    rivals: Mapping[str, Difference],
    description: str,
    seeds: int,
    images: int,
    behind: tuple[float, float],
    ahead: tuple[str, float, float] | None,
    validation_images: int,
) -> tuple[str, ...]:
    """The sentences of a comparison: what to use, what it beats, by how much, in hindsight, and the others.

    Args:
        arms: Every arm by name.
        answer: As in :class:`~bnadapt.evaluation.arms.Comparison`.
        recommended: The arm to use.
        reference: The arm that gains are measured against.
        best: The arm with the highest mean test accuracy.
        rivals: The recommended arm's differences from the reference and from the untouched baseline.
        description: Of the recommended arm; may be empty.
        seeds: Their number.
        images: Number of test images.
        behind: Validation accuracy of the recommended arm minus that of the best, and its standard error.
        ahead: The arm with the highest validation accuracy, by how much that is above the recommended arm's, and
            the standard error of this; None where no arm is above it.
        validation_images: Their number.
    """
    over = f"mean of {counted(seeds, 'seed')}" if seeds > 1 else "one seed"
    what = f"{recommended} ({description})" if description else recommended
    if answer == "no difference" and recommended in (reference, UNTOUCHED):
        reading = _nothing_preferred(arms, recommended, ahead, validation_images)
    else:
        reading = _reading(answer, recommended, reference, rivals, images)
    found = [
        f"Use {what}: {100 * arms[recommended].test:.1f} % of {counted(images, 'test image')} right, {over}.",
        reading,
    ]
    found += [f"Against {named(name)}: {_difference(each)}." for name, each in rivals.items()]
    found.append(_hindsight(arms, recommended, best, behind, validation_images))
    return (*found, *_corrected(arms, recommended, reference))


def named(arm: str) -> str:
    """An arm as sentences call it."""
    return "the untouched baseline" if arm == UNTOUCHED else arm


def counted(number: int, noun: str) -> str:
    """A number and what is counted: ``1 seed``, ``1,000 test images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def p_number(p_value: float) -> str:
    """A p-value with two digits: ``0.64``, ``0.031``, ``< 0.001``."""
    if p_value < SMALLEST_P:
        return f"< {SMALLEST_P:g}"
    return f"{p_value:.2f}" if p_value >= 0.1 else f"{p_value:.3f}"


def p_in_words(p_value: float) -> str:
    """A p-value in a sentence: ``p = 0.031``, ``p < 0.001``."""
    number = p_number(p_value)
    return f"p {number}" if number.startswith("<") else f"p = {number}"


def _difference(difference: Difference) -> str:
    low, high = signed(difference.low), signed(difference.high)
    return f"{signed(difference.estimate)} points (95 % interval {low} to {high}, {p_in_words(difference.p_value)})"


def _reading(
    answer: str, recommended: str, reference: str, rivals: Mapping[str, Difference], images: int
) -> str:
    """The answer in a sentence, which credits the arm and nothing that it may not even have."""
    match answer:
        case "not compared":
            return f"Not compared with {reference}, which did not run: more training alone may have done as much."
        case "helped":
            beaten = " and ".join(named(name) for name in rivals)
            return f"On the test images {recommended} beats {beaten}."
        case "hurt":
            lost = [name for name, each in rivals.items() if shows_less(each)]
            start = "Adapting" if UNTOUCHED in lost else "The choice"
            better = " and ".join(map(named, lost))
            return f"{start} did not pay: on the test images {better} did better than {named(recommended)}."
    unshown = {named(name): each for name, each in rivals.items() if not shows_more(each)}
    # What is needed is said where one half of it is there and the other is not.
    half = any(each.low > 0 or each.high < 0 or each.p_value < 1 - CONFIDENCE for each in unshown.values())
    needed = f": the interval has to leave zero out, and p to be below {1 - CONFIDENCE:.2g}" if half else ""
    seen = _these(images, "test image")
    return f"No difference that {seen} can show between {recommended} and {' or '.join(unshown)}{needed}."


def _nothing_preferred(
    arms: Mapping[str, ArmSummary],
    recommended: str,
    ahead: tuple[str, float, float] | None,
    validation_images: int,
) -> str:
    """Why the choice stayed with the reference or with the untouched baseline."""
    if len(arms) == 1:
        return f"There is no other arm to compare {named(recommended)} with."
    seen = f"On {_these(validation_images, 'validation image')}"
    if ahead is None:
        return f"{seen} no other arm was right more often than {named(recommended)}."
    highest, lead, error = ahead
    if lead <= error + 1e-12:
        return (
            f"{seen} no other arm was better than {named(recommended)} beyond chance: {named(highest)} was right more "
            f"often by {100 * lead:.1f} points, within one standard error."
        )
    return (
        f"{seen} {named(highest)} was right more often than {named(recommended)}, by {100 * lead:.1f} points, but of "
        "the arms within one standard error of it the one with the lowest loss was not."
    )


def _hindsight(
    arms: Mapping[str, ArmSummary],
    recommended: str,
    best: str,
    behind: tuple[float, float],
    validation_images: int,
) -> str:
    if best == recommended:
        return f"In hindsight, on the test images, nothing did better than {named(recommended)}."
    regret = arms[best].test - arms[recommended].test
    start = f"In hindsight {named(best)} was best, by {100 * regret:.1f} points"
    ahead, error = behind
    seen = counted(validation_images, "validation image")
    if abs(ahead) <= Z_95 * error or ahead == 0:
        return f"{start}: within what the {seen} could tell."
    side = "behind" if ahead > 0 else "ahead"
    return f"{start}: on the {seen} it was {100 * abs(ahead):.1f} points {side}."


def _corrected(arms: Mapping[str, ArmSummary], recommended: str, reference: str) -> list[str]:
    """Which of the other arms differ from the reference when all of them are tested at once.

    The recommended arm's own comparison needs no correction and is told before; a corrected one beside it would
    contradict it.
    """
    compared = {
        name: arm.against_reference for name, arm in arms.items() if arm.against_reference is not None
    }
    others = {name: each for name, each in compared.items() if name != recommended}
    if not others:
        return []
    differ = {
        name: each
        for name, each in others.items()
        if (adjusted := arms[name].adjusted) is not None and adjusted < 1 - CONFIDENCE
    }
    better = [_with_points(name, each) for name, each in differ.items() if shows_more(each)]
    worse = [_with_points(name, each) for name, each in differ.items() if shows_less(each)]
    start = f"On the test images, Holm-corrected for {counted(len(compared), 'arm')}"
    if not better and not worse:
        return [f"{start}, no other arm differs from {named(reference)}."]
    parts = [f"{word}: {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names]
    which = "this other arm differs" if len(better) + len(worse) == 1 else "these other arms differ"
    found = [f"{start}, {which} from {named(reference)}: {'; '.join(parts)}."]
    if better and recommended == reference:
        found.append(f"The choice of {named(reference)} was made without the test images.")
    return found


def _with_points(arm: str, difference: Difference) -> str:
    return f"{named(arm)} ({signed(difference.estimate)})"


def _these(number: int, noun: str) -> str:
    return f"{'this' if number == 1 else 'these'} {counted(number, noun)}"
