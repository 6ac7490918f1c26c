"""What a comparison found, in plain sentences."""

from collections.abc import Mapping

from bnadapt.config import UNTOUCHED
from bnadapt.evaluation.arms import ArmSummary
from bnadapt.evaluation.results import Difference
from bnadapt.evaluation.significance import CONFIDENCE, Z_95
from bnadapt.evaluation.verdict import points, shows_less, shows_more, signed


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
    validation_images: int,
) -> tuple[str, ...]:
    """The sentences of a comparison: what to use, whether it pays, against whom, in hindsight, and the others.

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
        validation_images: Their number.
    """
    over = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    what = f"{recommended} ({description})" if description else recommended
    found = [
        f"Use {what}: {100 * arms[recommended].test:.1f} % of {images:,} test images right, {over}.",
        _reading(answer, recommended, reference, rivals, images),
    ]
    found += [f"Against {named(name)}: {points(each)}." for name, each in rivals.items()]
    found.append(_hindsight(arms, recommended, best, behind, validation_images))
    if reference in arms:
        found += _corrected(arms, reference)
    return tuple(found)


def named(arm: str) -> str:
    """An arm as sentences call it."""
    return "the untouched baseline" if arm == UNTOUCHED else arm


def _reading(
    answer: str, recommended: str, reference: str, rivals: Mapping[str, Difference], images: int
) -> str:
    """The answer in a sentence."""
    match answer:
        case "not compared":
            return f"Not compared with {reference}, which did not run: more training alone may have done as much."
        case "helped":
            beaten = " and ".join(named(name) for name in rivals)
            return f"Adapting helped: {recommended} beats {beaten}."
        case "hurt":
            lost = " and ".join(named(name) for name, each in rivals.items() if shows_less(each))
            return f"Adapting did not pay: on the test images {lost} did better than {named(recommended)}."
        case _ if recommended == UNTOUCHED:
            return "Adapting did not pay here: by the validation images no arm is to be preferred to the baseline."
        case _ if recommended == reference:
            return (
                f"Batch normalization did not pay here: by the validation images no arm is to be preferred to "
                f"{reference}."
            )
    unshown = [named(name) for name, each in rivals.items() if not shows_more(each)]
    return f"No difference that these {images:,} test images can show between {recommended} and {' or '.join(unshown)}."


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
    seen = f"{validation_images:,} validation image" + ("s" if validation_images > 1 else "")
    if abs(ahead) <= Z_95 * error or ahead == 0:
        return f"{start}: within what the {seen} could tell."
    side = "behind" if ahead > 0 else "ahead"
    return f"{start}: on the {seen} it was {100 * abs(ahead):.1f} points {side}."


def _corrected(arms: Mapping[str, ArmSummary], reference: str) -> list[str]:
    """Which arms differ from the reference when all of them are tested at once."""
    compared = {
        name: arm.against_reference for name, arm in arms.items() if arm.against_reference is not None
    }
    differ = {
        name: each
        for name, each in compared.items()
        if (adjusted := arms[name].adjusted) is not None and adjusted < 1 - CONFIDENCE
    }
    better = [_with_points(name, each) for name, each in differ.items() if shows_more(each)]
    worse = [_with_points(name, each) for name, each in differ.items() if shows_less(each)]
    if not compared:
        return []
    if not better and not worse:
        return [f"Holm-corrected for {_count(len(compared))}, none differs from {named(reference)}."]
    parts = [f"{word}: {', '.join(names)}" for word, names in (("better", better), ("worse", worse)) if names]
    which = "this arm differs" if len(better) + len(worse) == 1 else "these arms differ"
    return [
        f"Holm-corrected for {_count(len(compared))}, {which} from {named(reference)}: {'; '.join(parts)}."
    ]


def _with_points(arm: str, difference: Difference) -> str:
    return f"{named(arm)} ({signed(difference.estimate)})"


def _count(arms: int) -> str:
    return f"{arms} arms" if arms > 1 else "1 arm"
