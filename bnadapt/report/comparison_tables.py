"""A comparison in tables and sentences for the terminal, and how its numbers are written everywhere."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from bnadapt.evaluation.arms import ArmSummary, Comparison
from bnadapt.evaluation.compare_wording import counted, p_number
from bnadapt.evaluation.results import Difference
from bnadapt.evaluation.verdict import signed
from bnadapt.report.comparison_material import labels_in_words
from bnadapt.report.tables import MISSING, percent, plain_table

# Signs behind the names of arms, and what they mean.
MARKS = (("*", "recommended"), ("^", "best in hindsight"), ("=", "reference"))
NAME_WIDTH = 36


def comparison_table(comparison: Comparison, labels: str = "") -> Table:
    """The table of arms for the terminal, 80 columns wide with the usual names; signs mark the arms that matter."""
    table = plain_table(
        "arm", ">validation\naccuracy", ">test\naccuracy", ">points to\nreference", ">adjusted\np"
    )
    table.columns[0].min_width = min(NAME_WIDTH, max(len(arm.arm) for arm in comparison.arms) + len(" *^="))
    table.title = Text(
        f"{counted(len(comparison.arms), 'arm')}, {labels or labels_in_words(comparison.labels)}",
        style="bold",
        justify="left",
    )
    table.title_justify = "left"
    for arm in comparison.arms:
        recommended = arm.arm == comparison.recommended
        name = Text(f"{arm.arm} {_marks(comparison, arm.arm)}".rstrip(), style="bold" if recommended else "")
        table.add_row(
            name,
            percent(arm.validation),
            percent(arm.test),
            points(arm.against_reference),
            p_value(arm.adjusted),
            style="green" if recommended else None,
        )
    table.caption = Text("   ".join(f"{sign} {words}" for sign, words in MARKS), style="dim")
    table.caption_justify = "left"
    return table


def comparison_text(comparison: Comparison) -> Text:
    """What was found, the answer first, a sentence to a line."""
    first, *others = comparison.sentences or ("",)
    text = Text(first, style="bold")
    for sentence in others:
        text.append("\n" + sentence, style="not bold")
    return text


def interval(arm: ArmSummary) -> str:
    """The 95 % interval of the test accuracy, in per cent without the sign: ``83.0 to 85.3``."""
    return f"{100 * arm.low:.1f} to {100 * arm.high:.1f}"


def points(difference: Difference | None) -> str:
    """A difference in percentage points, and its 95 % interval after a line break; a dash where there is none."""
    if difference is None:
        return MISSING
    low, high = signed(difference.low), signed(difference.high)
    return f"{signed(difference.estimate)}\n{low} to {high}"


def p_value(value: float | None) -> str:
    """A p-value with two digits: ``0.64``, ``0.031``, ``< 0.001``; a dash where there is none."""
    return MISSING if value is None else p_number(value)


def rates(learning_rates: Sequence[float | None]) -> str:
    """The kept learning rates, each once, in the order of seeds; a dash where nothing trained."""
    found = dict.fromkeys(f"{rate:g}" for rate in learning_rates if rate is not None)
    return ", ".join(found) or MISSING


def shows_difference(arm: ArmSummary) -> bool:
    """Whether the data show that the arm differs from the reference, the number of arms considered."""
    gap = arm.against_reference
    if gap is None or arm.adjusted is None:
        return False
    return (gap.low > 0 or gap.high < 0) and arm.adjusted < 0.05


def _marks(comparison: Comparison, arm: str) -> str:
    named = (comparison.recommended, comparison.best_in_hindsight, comparison.reference)
    return "".join(sign for (sign, _), name in zip(MARKS, named, strict=True) if name == arm)
