"""The plots of a search: how it went, and what each setting had to do with it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnadapt.report import style
from bnadapt.report.drawing import Drawing

SECTION = "Search"
PANELS_PER_ROW = 3
SIZE = 46  # of a mark, points squared


@dataclass(frozen=True)
class TrialPoint:
    """One trial as it is drawn.

    Attributes:
        place: Its number.
        values: What it tried by name: numbers of intervals, words of choices.
        state: ``complete``, ``pruned`` or ``failed``.
        accuracy: On the validation images, 0 to 1; None where it failed.
        best: Whether it is the best one.
    """

    place: int
    values: Mapping[str, float | str]
    state: str
    accuracy: float | None
    best: bool = False


def search_drawings(
    trials: Sequence[TrialPoint],
    *,
    standing: float | None,
    baseline: float | None,
    logarithmic: Sequence[str] = (),
) -> list[Drawing]:
    """The plots of a search; none of them is drawn yet.

    Args:
        trials: In order.
        standing: Validation accuracy of the settings as they stand, 0 to 1.
        baseline: Validation accuracy of the baseline, 0 to 1.
        logarithmic: Names of the settings whose axis is logarithmic.
    """
    return [
        Drawing(
            SECTION,
            "search",
            "Validation accuracy over the trials",
            lambda: trials_over_time(trials, standing=standing, baseline=baseline),
        ),
        Drawing(
            SECTION,
            "settings",
            "Validation accuracy against each setting",
            lambda: against_each_setting(trials, logarithmic),
        ),
    ]


def trials_over_time(
    trials: Sequence[TrialPoint], *, standing: float | None, baseline: float | None
) -> Figure:
    """Validation accuracy of every trial in order, and the best so far."""
    figure, axes = style.new_figure("Validation accuracy over the trials")
    _marks(axes, trials, lambda trial: trial.place)
    places, best = _best_so_far(trials)
    if places:
        last = max(trial.place for trial in trials)
        axes.step(
            [*places, last],
            [*best, best[-1]],
            where="post",
            color=style.BLUE,
            linewidth=1.8,
            label="best so far",
        )
    for value, name, colour, dashes in (
        (standing, "settings as they stand", style.GREEN, "--"),
        (baseline, "baseline, without batch normalization", style.GREY, ":"),
    ):
        if value is not None:
            axes.axhline(value, color=colour, linestyle=dashes, linewidth=1.6, label=name, zorder=1)
    for trial in trials:
        if trial.accuracy is None:
            axes.annotate(
                "x", (trial.place, 0.0), xycoords=("data", "axes fraction"), xytext=(0, 4),
                textcoords="offset points", ha="center", color=style.VERMILION, fontweight="bold",
            )  # fmt: skip
    if any(trial.accuracy is None for trial in trials):
        axes.scatter([], [], marker="x", color=style.VERMILION, label="failed")
    axes.set_xlabel("trial", fontsize=12)
    axes.set_ylabel("validation accuracy", fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _no_more_than_all(axes)
    style.percent_axis(axes, "y")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=10, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)
    return figure


def against_each_setting(trials: Sequence[TrialPoint], logarithmic: Sequence[str] = ()) -> Figure:
    """Validation accuracy against the values of each setting, a panel for each."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.values))
    columns = min(PANELS_PER_ROW, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(
        figsize=(3.7 * columns + 0.8, 3.6 * lines + 1.0), dpi=style.DOTS_PER_INCH, layout="constrained"
    )
    figure.suptitle("Validation accuracy against each setting", fontsize=14, fontweight="bold")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for name, axes in zip(names, panels.flat, strict=False):
        _panel(axes, trials, name, name in logarithmic)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("validation accuracy", fontsize=11)
    style.percent_axis(panels[0, 0], "y")
    _no_more_than_all(panels[0, 0])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def _panel(axes: Axes, trials: Sequence[TrialPoint], name: str, logarithmic: bool) -> None:
    values = [trial.values.get(name) for trial in trials]
    if all(isinstance(value, int | float) for value in values):
        _marks(axes, trials, lambda trial: float(trial.values[name]))
        if logarithmic:
            style.logarithmic_axis(
                axes, "x", [float(value) for value in values if isinstance(value, int | float)]
            )
    else:
        words = sorted({str(value) for value in values})
        # Many trials of one choice would hide each other in a line.
        scatter = np.random.default_rng(0).uniform(-0.18, 0.18, max(trial.place for trial in trials) + 1)
        _marks(axes, trials, lambda trial: words.index(str(trial.values[name])) + scatter[trial.place])
        axes.set_xticks(
            range(len(words)), [style.readable(word, "?", 20).replace("_", "\n") for word in words]
        )
        axes.set_xlim(-0.5, len(words) - 0.5)
    axes.set_xlabel(style.readable(name, "?"), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _no_more_than_all(axes: Axes) -> None:
    """Let the axis of accuracies end where they do."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 1.004))


def _marks(axes: Axes, trials: Sequence[TrialPoint], where: Callable[[TrialPoint], float]) -> None:
    """A mark for every trial that has an accuracy; every kind has its own shape, not its colour alone."""
    seen = [trial for trial in trials if trial.accuracy is not None]
    kinds = (
        (
            "finished",
            "o",
            style.SKY,
            style.BLUE,
            [each for each in seen if each.state == "complete" and not each.best],
        ),
        ("stopped early", "v", "none", style.GREY, [each for each in seen if each.state == "pruned"]),
        ("best", "*", style.ORANGE, "black", [each for each in seen if each.best]),
    )
    for label, marker, face, edge, chosen in kinds:
        if chosen:
            axes.scatter(
                [where(each) for each in chosen],
                [each.accuracy or 0.0 for each in chosen],
                marker=marker,
                s=SIZE * (5 if marker == "*" else 1),
                facecolors=face,
                edgecolors=edge,
                linewidths=1.0,
                label=label,
                zorder=4 if marker == "*" else 3,
            )


def _best_so_far(trials: Sequence[TrialPoint]) -> tuple[list[int], list[float]]:
    """Places of the trials that ended, and the highest accuracy up to each."""
    ended = [
        (each.place, each.accuracy)
        for each in trials
        if each.state == "complete" and each.accuracy is not None
    ]
    highest = np.maximum.accumulate([accuracy for _, accuracy in ended]) if ended else np.empty(0)
    return [place for place, _ in ended], [float(value) for value in highest]
