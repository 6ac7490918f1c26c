"""Every plot of a comparison can be drawn and read, and shows the numbers that it should, at the edges too."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bnadapt.evaluation.arms import RateTried
from bnadapt.report.comparison_axes import RECOMMENDED
from bnadapt.report.comparison_choice import accuracy_by_labels, validation_against_test
from bnadapt.report.comparison_curves import curves_by_arm, rates_by_arm
from bnadapt.report.comparison_drawings import comparison_drawings
from bnadapt.report.comparison_material import ComparisonMaterial, summary
from bnadapt.report.comparison_plots import accuracy_by_arm, differences_to_reference
from bnadapt.report.style import GREEN, GREY, VERMILION
from tests.report.comparison_examples import ARMS, LONG_ARMS, material

pytestmark = pytest.mark.filterwarnings("error")

NOTHING_OR_ALL = (
    ("untouched", "", 0.0, 0.0, 0),
    ("all_right", "", 1.0, 0.0, 100),
    ("also_all_right", "", 1.0, 0.0, 100),
    ("never_right", "", 0.0, 0.0, 10),
)
ALIKE = tuple(
    (name, text, 0.97 + 0.001 * number, 0.0, size) for number, (name, text, _, _, size) in enumerate(ARMS)
)
CASES: dict[str, Callable[[], ComparisonMaterial]] = {
    "usual": material,
    "long names, one seed": lambda: material(arms=LONG_ARMS, seeds=(0,)),
    "two arms": lambda: material(arms=ARMS[:2], seeds=(0,), labels=(None,)),
    "several numbers of labels": lambda: material(labels=(50, None), arms=ARMS[:6], images=300),
    "nothing or all right": lambda: material(arms=NOTHING_OR_ALL, images=200),
    "all alike": lambda: material(arms=ALIKE, labels=(None,)),
    "without its reference": lambda: material(arms=ARMS[:7], reference="absent", images=300),
    "another script": lambda: material(arms=(ARMS[0], ("$x_1^2$ 数字", "", 0.9, 0.0, 10))),
}
FULL = material()
ONE = FULL.comparisons[0]


def texts(figure: Figure) -> list[Text]:
    """Everything that is written on the figure and can be seen."""
    figure.draw_without_rendering()
    found = [each for each in figure.findobj(Text) if each.get_visible() and each.get_text().strip()]
    hidden = [each for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for each in _off(axis)]
    unseen = {id(text) for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    return [each for each in found if id(each) not in unseen and id(each) not in {id(off) for off in hidden}]


def _off(axis: object) -> list[Text]:
    """Labels of ticks that are beyond the ends of their axis or switched off."""
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    off = [
        tick
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        if not low - room <= tick.get_loc() <= high + room
    ]
    return [text for tick in off for text in (tick.label1, tick.label2)]


def written(figure: Figure) -> str:
    return "\n".join(each.get_text() for each in texts(figure))


@pytest.mark.parametrize("case", CASES)
def test_every_plot_can_be_read(case: str) -> None:
    """All that is written lies within the figure, and none of it on anything else."""
    for drawing in comparison_drawings(CASES[case]()):
        figure = drawing.draw()
        boxes = {}
        for text in texts(figure):
            boxes[text] = text.get_window_extent().padded(-1.5)
        width, height = figure.get_size_inches() * figure.dpi
        for text, box in boxes.items():
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
            assert inside, f"{drawing.name}: {text.get_text()!r} leaves the figure"
        for (first, a), (second, b) in combinations(boxes.items(), 2):
            apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
            assert apart, f"{drawing.name}: {first.get_text()!r} lies on {second.get_text()!r}"


def test_accuracies_lie_where_they_are() -> None:
    (axes,) = accuracy_by_arm(ONE, FULL.of(ONE)).axes
    left, _ = axes.get_xlim()
    points = {
        tuple(map(float, xy))
        for line in axes.lines
        for xy in zip(*map(np.ravel, line.get_data()), strict=True)
    }
    for row, arm in enumerate(ONE.arms):
        if arm.test >= left:
            assert (arm.test, row) in points
            for each in FULL.of(ONE)[arm.arm]:
                assert any(abs(x - each.test.accuracy) < 1e-12 and row < y < row + 0.5 for x, y in points)
        else:
            assert (0.012, row) in points  # the arrow, in shares of the axis
    arrows = [line for line in axes.lines if line.get_marker() == "<"]
    assert 0 < len(arrows) == sum(arm.test < left for arm in ONE.arms)
    dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [summary(ONE, "further_training").test]


def test_accuracies_are_written_with_the_roles_of_arms() -> None:
    text = written(accuracy_by_arm(ONE, FULL.of(ONE)))
    for arm in ONE.arms:
        assert f"{100 * arm.test:.2f} %" in text
    for words in (
        "recommended",
        "best in hindsight",
        "reference: further_training",
        "does not start at zero",
    ):
        assert words in text
    bold = [each for each in texts(accuracy_by_arm(ONE, FULL.of(ONE))) if each.get_color() == RECOMMENDED]
    assert ONE.recommended in {each.get_text() for each in bold}


def test_an_axis_from_zero_says_nothing_of_its_start() -> None:
    found = material(arms=NOTHING_OR_ALL, images=200)
    text = written(accuracy_by_arm(found.comparisons[0], found.of(found.comparisons[0])))
    assert "does not start at zero" not in text


def test_differences_have_their_direction_and_colour() -> None:
    figure = differences_to_reference(ONE)
    (axes,) = figure.axes
    text = written(figure)
    for words in ("worse", "better", "minus that of further_training", "Holm"):
        assert words in text
    left, _ = axes.get_xlim()
    for row, arm in enumerate(ONE.arms):
        gap = arm.against_reference
        if gap is None or 100 * gap.estimate < left:
            continue
        (line,) = (
            each
            for each in axes.lines
            if list(each.get_ydata()) == [row, row]
            and list(each.get_xdata()) == [100 * gap.low, 100 * gap.high]
        )
        shown = arm.adjusted < 0.05 and (gap.low > 0 or gap.high < 0)
        assert line.get_color() == (GREY if not shown else GREEN if gap.estimate > 0 else VERMILION)
    assert "-46.0" in text  # beyond the axis, but written


def test_every_arm_has_a_panel_with_its_curve() -> None:
    results = FULL.of(ONE)
    figure = curves_by_arm(ONE, results)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_visible()}
    assert list(panels) == [arm.arm for arm in ONE.arms]
    thick = [line for line in panels["head"].lines if line.get_linewidth() > 2]
    looks = np.array([[look.val_accuracy for look in each.history] for each in results["head"]])
    assert list(thick[0].get_xdata()) == list(results["head"][0].looks)
    np.testing.assert_allclose(thick[0].get_ydata(), looks.mean(axis=0))
    (end,) = (line for line in panels["head"].lines if line.get_marker() == "o")
    assert (end.get_xdata()[0], end.get_ydata()[0]) == (300, summary(ONE, "head").validation)
    assert [line.get_marker() for line in panels["untouched"].lines].count("v") == 1


def test_one_seed_has_no_second_curve() -> None:
    found = material(seeds=(0,), arms=ARMS[:2], images=100)
    comparison = found.comparisons[0]
    figure = curves_by_arm(comparison, found.of(comparison))
    assert "seed" not in written(figure)
    assert "seed" not in written(accuracy_by_arm(comparison, found.of(comparison)))


def test_rates_are_written_and_the_kept_one_is_framed() -> None:
    results = FULL.of(ONE)
    figure = rates_by_arm(ONE, results)
    (axes,) = figure.axes
    trained = [arm.arm for arm in ONE.arms if arm.trainable]
    assert [label.get_text() for label in axes.get_yticklabels()] == trained
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
    cells = {
        (round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in axes.texts
    }
    for row, arm in enumerate(trained):
        for column, tried in enumerate(results[arm][0].rates):
            assert cells[column, row] == f"{100 * tried.accuracy:.1f} %"
    framed = {(round(frame.get_x() + 0.47), round(frame.get_y() + 0.44)) for frame in axes.patches}
    assert framed == {
        (1 if summary(ONE, arm).trainable > 1000 else 2, row) for row, arm in enumerate(trained)
    }


def test_a_rate_at_which_training_ran_away_is_told_of() -> None:
    results = {
        arm: [
            replace(
                each, rates=(*each.rates, RateTried(1.0, math.nan, math.nan)) if arm == "head" else each.rates
            )
            for each in found
        ]
        for arm, found in FULL.of(ONE).items()
    }
    assert written(rates_by_arm(ONE, {**results, "head": results["head"][:1]})).count("ran away") == 1


def test_validation_and_test_accuracies_are_set_against_each_other() -> None:
    figure = validation_against_test(ONE)
    (axes,) = figure.axes
    stars = [line for line in axes.lines if line.get_marker() == "*"]
    best = summary(ONE, ONE.recommended)
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in stars] == [(best.validation, best.test)]
    assert axes.get_xlim() == axes.get_ylim()
    text = written(figure)
    assert "untouched (below: 37.8 %)" in text
    assert f"{100 * ONE.regret:.1f} points" in text


def test_lines_over_labels_end_at_all_of_them() -> None:
    found = material(labels=(100, None, 1), arms=ARMS[:6], images=300)
    figure = accuracy_by_labels(found.comparisons)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "100", "all"]
    places = list(axes.get_xticks())
    assert places == pytest.approx([0, 2, 4])
    by_labels = {each.labels: each for each in found.comparisons}
    stars = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.lines
        if line.get_marker() == "*"
    }
    assert stars == {
        (place, summary(by_labels[labels], by_labels[labels].recommended).test)
        for place, labels in zip(places, (1, 100, None), strict=True)
    }
    heads = [summary(by_labels[labels], "head").test for labels in (1, 100, None)]
    assert any(list(line.get_ydata()) == heads for line in axes.lines)
    assert "further_training (reference)" in written(figure)


def test_the_plots_have_names_sections_and_titles() -> None:
    found = comparison_drawings(FULL)
    assert [(each.section, each.path) for each in found] == [
        ("Arms", "plots/accuracy_by_arm.png"),
        ("Arms", "plots/difference_to_reference.png"),
        ("Training", "plots/validation_accuracy.png"),
        ("Training", "plots/learning_rates.png"),
        ("Choice on validation", "plots/validation_and_test.png"),
    ]
    several = comparison_drawings(material(labels=(10, None), arms=ARMS[:2], images=50))
    assert [(each.section, each.path) for each in several][:2] == [
        ("Numbers of labels", "plots/accuracy_by_labels.png"),
        ("10 labels per class", "plots/accuracy_by_arm_10_labels.png"),
    ]
    assert several[-1].section == "All labels"
    assert several[-1].path == "plots/validation_and_test_all_labels.png"
    assert len({each.path for each in several}) == len({each.title for each in several}) == 11


def test_what_there_is_nothing_of_is_not_drawn() -> None:
    bare = material(arms=(ARMS[0], ARMS[6]), reference="absent", images=50)
    assert [each.name for each in comparison_drawings(bare)] == ["accuracy_by_arm", "validation_and_test"]
