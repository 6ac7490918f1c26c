"""A comparison on the terminal: complete, within its width, and its numbers written alike."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from bnadapt.evaluation.results import Difference
from bnadapt.report.comparison_tables import (
    comparison_table,
    comparison_text,
    p_value,
    points,
    rates,
    shows_difference,
)
from tests.report.comparison_examples import ARMS, LONG_ARMS, material


def printed(renderable: RenderableType, width: int = 100) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def gap(estimate: float, low: float, high: float) -> Difference:
    return Difference(estimate, low, high, p_value=0.5, gained=1, lost=2)


def test_the_table_holds_every_arm_with_its_numbers() -> None:
    found = material()
    comparison = found.comparisons[0]
    text = printed(comparison_table(comparison))
    assert text.startswith("13 arms, 10 labels per class")
    lines = text.splitlines()
    for arm in comparison.arms:
        (line,) = (each for each in lines if each.split()[:1] == [arm.arm])
        assert f"{100 * arm.validation:.2f} %" in line
        assert f"{100 * arm.test:.2f} %" in line
    assert "* recommended   ^ best in hindsight   = reference" in text


def test_one_arm_is_no_several() -> None:
    lone = material(images=100, arms=ARMS[:2], seeds=(0,)).comparisons[0]
    lone = replace(lone, arms=lone.arms[:1])
    assert printed(comparison_table(lone)).startswith("1 arm, 10 labels per class")


def test_signs_mark_the_arms_that_matter() -> None:
    found = material()
    comparison = found.comparisons[0]
    text = printed(comparison_table(comparison))
    marked = {line.split()[0]: line.split()[1] for line in text.splitlines() if line.split()[1:2] and
              set(line.split()[1]) <= set("*^=")}  # fmt: skip
    marks = {comparison.recommended: "*"}
    marks[comparison.best_in_hindsight] = marks.get(comparison.best_in_hindsight, "") + "^"
    marks["further_training"] = "="
    assert {name: sign for name, sign in marked.items() if name != "*"} == marks


@pytest.mark.parametrize(("arms", "width"), [(ARMS, 80), (LONG_ARMS, 100), (ARMS[:2], 80)])
def test_the_table_fits_the_terminal(arms: tuple, width: int) -> None:
    found = material(arms=arms, images=300)
    text = printed(comparison_table(found.comparisons[0]), width=width)
    assert max(map(len, text.splitlines())) <= width
    if arms is not LONG_ARMS:  # names in one piece
        assert all(
            any(line.startswith(arm.arm) for line in text.splitlines()) for arm in found.comparisons[0].arms
        )
    squeezed = text.replace(" ", "").replace("\n", "")
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for arm in found.comparisons[0].arms:
        assert f"{100 * arm.test:.2f}%" in squeezed


def test_the_verdict_is_told_a_sentence_to_a_line() -> None:
    comparison = material(images=300).comparisons[0]
    assert comparison_text(comparison).plain.split("\n") == list(comparison.sentences)
    assert comparison_text(comparison).plain.startswith("Use ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (1.0, "1.00"),
        (0.64, "0.64"),
        (0.0312, "0.031"),
        (0.001, "0.001"),
        (0.0004, "< 0.001"),
    ],
)
def test_p_values_have_the_digits_that_matter(value: float | None, text: str) -> None:
    assert p_value(value) == text


def test_differences_are_points_with_an_interval() -> None:
    assert points(gap(0.0123, -0.004, 0.03)) == "+1.2\n-0.4 to +3.0"
    assert points(gap(-0.0001, -0.2, -0.0001)) == "+0.0\n-20.0 to +0.0"
    assert points(None) == "-"


def test_learning_rates_are_named_once() -> None:
    assert rates((1e-3, 1e-3, 1e-2)) == "0.001, 0.01"
    assert rates((None, None)) == "-"


def test_a_difference_shows_where_interval_and_corrected_p_value_agree() -> None:
    arms = {each.arm: each for each in material().comparisons[0].arms}
    assert shows_difference(arms["head"])
    assert not shows_difference(arms["further_training"])
    head = arms["head"]
    assert not shows_difference(replace(head, adjusted=0.2))
    assert not shows_difference(replace(head, against_reference=gap(-0.1, -0.2, 0.01)))
    assert shows_difference(replace(head, against_reference=gap(0.1, 0.01, 0.2)))
