"""Every plot can be drawn, and shows what it should, at the edges too."""

import io
import math
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from bnadapt.evaluation.results import Epoch, Scores, StageResult
from bnadapt.evaluation.significance import wilson
from bnadapt.report.comparisons import accuracy_by_stage, recall_change
from bnadapt.report.curves import accuracy_curve, loss_curves
from bnadapt.report.style import readable

pytestmark = pytest.mark.filterwarnings("error")


def scores(accuracy: float, recall: list[float] | None = None, count: int = 100) -> Scores:
    correct = np.arange(count) < round(accuracy * count)
    return Scores(
        accuracy=accuracy,
        loss=1.0,
        macro_f1=accuracy,
        calibration_error=0.1,
        recall=np.array([accuracy] if recall is None else recall),
        correct=correct,
        predicted=np.zeros(count, int),
    )


def epochs(*accuracies: float) -> list[Epoch]:
    return [
        Epoch(number, accuracy, 1 - accuracy + 1e-3, accuracy, 1 - accuracy + 1e-3, 1e-3, 1.0)
        for number, accuracy in enumerate(accuracies, 1)
    ]


def stage(name: str, end: float | None, *accuracies: float) -> StageResult:
    final = None if end is None else scores(end)
    return StageResult(name, 1, 1, 1.0, epochs(*accuracies), validation=final, test=final)


CLASSIC = [
    stage("baseline", 0.75, 0.5, 0.7),
    stage("insert", 0.75),
    stage("adapt", 0.8, 0.78),
    stage("finetune", 0.9, 0.85, 0.88),
    stage("control", 0.77, 0.76, 0.78, 0.79),
]


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


def lines(figure: Figure) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines]


@pytest.mark.parametrize(
    "results",
    [
        CLASSIC,
        CLASSIC[:-1],
        CLASSIC[:2],
        [stage("baseline", 0.1), stage("insert", 0.1), stage("train", 0.9, 0.5)],
        [stage("baseline", None, 0.5)],
        [stage("adapt", 0.5, 0.5), stage("control", 0.5, 0.5)],
        [stage("baseline", 0.5, *[0.5] * 300), stage("a_stage_with_a_very_long_name", 0.5, 0.5)],
        [stage("baseline", 1.0, math.nan, 1.0)],
        [],
    ],
    ids=[
        "classic",
        "no control",
        "no training",
        "scratch",
        "no scores",
        "no baseline",
        "long",
        "nan",
        "nothing",
    ],
)
def test_every_plot_of_stages_is_a_png(results: list[StageResult]) -> None:
    for figure in (
        accuracy_curve(results, "finetune"),
        loss_curves(results),
        accuracy_by_stage(results, "adapt"),
    ):
        assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("losses", "ticks"),
    [
        ([1.03, 1.01, 0.99], {"1", "1.02", "1.04"}),
        ([2.3, 0.9, 0.5, 0.3], {"0.5", "1", "2"}),
        ([2.3, 0.1, 0.0004], {"0.001", "0.1", "1"}),
        ([0.0, math.nan], set()),
    ],
)
def test_losses_are_written_as_people_write_them(losses: list[float], ticks: set[str]) -> None:
    history = [Epoch(place, 0.5, loss, 0.5, loss, 1e-3, 0.1) for place, loss in enumerate(losses, 1)]
    figure = loss_curves([StageResult("baseline", 4, 4, 1.0, history=history)])
    figure.canvas.draw()
    axis = figure.axes[0].yaxis
    written = {label.get_text() for label in (*axis.get_ticklabels(), *axis.get_ticklabels(minor=True))}
    assert ticks <= written
    assert not any("times" in text for text in written)


def test_epochs_are_counted_on_and_stages_without_any_have_room() -> None:
    figure = accuracy_curve(CLASSIC, "finetune")
    width = 0.5  # of insert: the least that a stage without epochs takes
    drawn = lines(figure)
    assert ([2.0, 2.0 + width], [0.75, 0.75]) in drawn
    assert ([2.0 + width, 3.0 + width], [0.75, 0.78]) in drawn
    assert ([3.0 + width, 4.0 + width, 5.0 + width], [0.8, 0.85, 0.88]) in drawn
    axes = figure.axes[0]
    ticks = dict(zip([label.get_text() for label in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert (ticks["2"], ticks["3"], ticks["5"]) == (2.0, 3.0 + width, 5.0 + width)
    png(figure)
    names = [label.get_text() for label in axes.child_axes[0].get_xticklabels()]
    assert names == ["baseline", "insert", "adapt", "finetune"]


def test_the_control_starts_where_the_baseline_ended() -> None:
    figure = accuracy_curve(CLASSIC)
    assert ([2.0, 3.5, 4.5, 5.5], [0.75, 0.76, 0.78, 0.79]) in lines(figure)
    assert not any(label.get_text().startswith("kept") for label in figure.legends[0].get_texts())


def test_the_kept_stage_and_the_insertion_are_marked() -> None:
    figure = accuracy_curve(CLASSIC, "finetune")
    assert "kept: finetune, 90.0 %" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert [text.get_text() for text in figure.axes[0].texts] == ["75.0 %"]


def test_accuracies_and_intervals_are_drawn_where_they_are() -> None:
    figure = accuracy_by_stage(CLASSIC, "finetune")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][3] == "finetune (kept)"
    written = [text.get_text() for text in axes.texts]
    assert written[:5] == ["75.00 %", "75.00 %", "80.00 %", "90.00 %", "77.00 %"]
    low, high = wilson(CLASSIC[3].test)
    bars = axes.containers[1].lines[2][0].get_segments()
    np.testing.assert_allclose(bars[3][:, 0], [low, high])
    assert "does not start at zero" in axes.get_xlabel()


def bars(figure: Figure) -> dict[str, float]:
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    return dict(zip(names, [patch.get_width() for patch in axes.patches], strict=True))


def test_recall_is_sorted_and_signed() -> None:
    before, after = scores(0.5, [0.5, 0.9, 0.2]), scores(0.5, [0.75, 0.8, 0.2])
    drawn = bars(recall_change(before, after, ["a", "b", "c"], after_name="adapt"))
    assert list(drawn) == ["b", "c", "a"]
    np.testing.assert_allclose(list(drawn.values()), [-10, 0, 25], atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 40, 41, 120])
def test_recall_of_few_and_many_classes(count: int) -> None:
    random = np.random.default_rng(0)
    before = scores(0.5, list(random.uniform(size=count)))
    after = scores(0.5, list(random.uniform(size=count)))
    figure = recall_change(before, after, [f"class of images {n}" for n in range(count)], after_name="adapt")
    drawn = list(bars(figure).values())
    assert drawn == sorted(drawn)
    assert len(drawn) == min(count, 40)
    assert drawn[0] == pytest.approx(100 * (after.recall - before.recall).min())
    assert drawn[-1] == pytest.approx(100 * (after.recall - before.recall).max())
    left_out = f"{count - 40} classes between" in figure.axes[0].get_xlabel()
    assert left_out == (count > 40)
    assert png(figure).startswith(b"\x89PNG")


def test_classes_without_test_images_are_left_out_and_counted() -> None:
    figure = recall_change(
        scores(0.5, [0.5, math.nan]), scores(0.5, [0.6, math.nan]), ["seen", "unseen"], after_name="adapt"
    )
    assert list(bars(figure)) == ["seen"]
    assert "1 without test images" in figure.axes[0].get_xlabel()
    nothing = recall_change(scores(0, [math.nan]), scores(0, [math.nan]), ["unseen"], after_name="adapt")
    assert png(nothing).startswith(b"\x89PNG")


def test_names_in_any_script_are_drawn_or_replaced() -> None:
    names = ["$x$ [y]", "наука", "\U0001f9ea", "a very long name, as folders of images sometimes have them"]
    figure = recall_change(
        scores(0.5, [0.1] * 4), scores(0.5, [0.2, 0.3, 0.4, 0.5]), names, after_name="adapt"
    )
    assert png(figure).startswith(
        b"\x89PNG"
    )  # a letter that no font has would be a warning, so an error here
    shown = list(bars(figure))
    assert shown[:2] == ["$x$ [y]", "наука"]
    assert shown[2] in ("class 2", "\U0001f9ea")
    assert shown[3] == "a very long na...imes have them"


def test_short_names_stay() -> None:
    assert readable("x" * 32, "class 0") == "x" * 32
    assert len(readable("x" * 33, "class 0")) <= 32


def test_pyplot_is_left_alone() -> None:
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
