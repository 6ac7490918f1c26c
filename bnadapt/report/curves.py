"""Curves over all stages on one axis: validation accuracy, and loss."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnadapt.config import BASELINE, CONTROL
from bnadapt.evaluation.results import Epoch, StageResult
from bnadapt.report.style import (
    BLUE,
    GREEN,
    GREY,
    STAGE_COLOURS,
    VERMILION,
    logarithmic_axis,
    new_figure,
    percent_axis,
)

# The share of the axis that a stage without epochs takes, so that its name and value have room.
SHARE_WITHOUT_EPOCHS = 0.08
# The share of the axis that a letter of a stage's name takes, about.
SHARE_OF_LETTER = 0.0105


@dataclass(frozen=True)
class _Span:
    """A stage's place on the axis: from ``left`` to ``right``, its first epoch after ``epochs_before``."""

    result: StageResult
    left: float
    right: float
    epochs_before: int

    def place(self, epoch: float) -> float:
        return self.left + epoch


def accuracy_curve(results: Sequence[StageResult], best: str | None = None) -> Figure:
    """Validation accuracy over the epochs of all stages, counted on from stage to stage.

    Dots mark what each stage left behind, after statistics were measured anew and the best epoch was
    taken, which may differ from its last epoch. The control starts where the baseline ended.
    """
    spans = _spans(results)
    figure, axes = new_figure("Validation accuracy over all stages")
    _draw_spans(axes, spans)
    left_behind: float | None = None
    for span in spans:
        _draw_accuracy(axes, span, left_behind)
        left_behind = _validation_accuracy(span.result)
    _draw_control(axes, spans, results)
    _mark_best(axes, spans, best)
    axes.margins(y=0.1)
    percent_axis(axes, "y")
    axes.set_ylabel("accuracy on the validation images", fontsize=12)
    _legend(figure, axes)
    return figure


def loss_curves(results: Sequence[StageResult]) -> Figure:
    """Loss on training and validation images over the epochs of all stages, on a logarithmic axis."""
    spans = _spans(results)
    figure, axes = new_figure("Loss over all stages")
    _draw_spans(axes, spans)
    series: tuple[tuple[str, str, str, Callable[[Epoch], float]], ...] = (
        ("training images (mean over the epoch)", VERMILION, "--", lambda epoch: epoch.loss),
        ("validation images", BLUE, "-", lambda epoch: epoch.val_loss),
    )
    for label, colour, line, value in series:
        for span in spans:
            history = span.result.history
            axes.plot(
                [span.place(epoch.number) for epoch in history],
                [value(epoch) for epoch in history],
                color=colour,
                linestyle=line,
                linewidth=2,
                marker=".",
                label=label if history else None,
            )
    if any(span.result.history for span in spans):
        epochs = [epoch for span in spans for epoch in span.result.history]
        logarithmic_axis(axes, "y", [value for each in epochs for value in (each.loss, each.val_loss)])
    axes.set_ylabel("cross-entropy (nats)", fontsize=12)
    _legend(figure, axes)
    return figure


def _spans(results: Sequence[StageResult]) -> list[_Span]:
    chain = [result for result in results if result.name != CONTROL]
    total = sum(_epochs(result) for result in chain)
    width_without_epochs = max(SHARE_WITHOUT_EPOCHS * total, 0.5)
    spans: list[_Span] = []
    left, before = 0.0, 0
    for result in chain:
        width = _epochs(result) or width_without_epochs
        spans.append(_Span(result, left, left + width, before))
        left, before = left + width, before + _epochs(result)
    return spans


def _epochs(result: StageResult) -> int:
    return max((epoch.number for epoch in result.history), default=0)


def _validation_accuracy(result: StageResult) -> float | None:
    return None if result.validation is None else result.validation.accuracy


def _draw_accuracy(axes: Axes, span: _Span, before: float | None) -> None:
    """A stage's curve from what the stage before it left, and a dot for what it leaves."""
    history, after = span.result.history, _validation_accuracy(span.result)
    x = [span.left, *(span.place(epoch.number) for epoch in history)]
    y = [math.nan if before is None else before, *(epoch.val_accuracy for epoch in history)]
    axes.plot(x, y, color=BLUE, linewidth=2, marker=".", label="after each epoch" if history else None)
    if after is None:
        return
    axes.plot([x[-1], span.right], [y[-1], after], color=BLUE, linestyle=":" if history else "-", linewidth=2)
    axes.plot(
        span.right,
        after,
        "o",
        color=BLUE,
        markeredgecolor="white",
        markersize=9,
        label="at the end of the stage",
    )
    if not history:
        axes.annotate(
            f"{100 * after:.1f} %",
            ((span.left + span.right) / 2, after),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            color=BLUE,
        )


def _draw_spans(axes: Axes, spans: Sequence[_Span]) -> None:
    if not spans:
        return
    end = spans[-1].right
    axes.set_xlim(-0.015 * end, 1.015 * end)
    for number, span in enumerate(spans):
        axes.axvspan(
            span.left, span.right, color=STAGE_COLOURS[number % len(STAGE_COLOURS)], alpha=0.15, lw=0
        )
    _write_names(axes, spans)
    total = spans[-1].epochs_before + _epochs(spans[-1].result)
    ticks = [tick for tick in MaxNLocator(10, integer=True).tick_values(0, total) if 0 <= tick <= total]
    axes.set_xticks([_place(spans, tick) for tick in ticks], [f"{tick:.0f}" for tick in ticks])
    axes.set_xlabel("epochs, counted on from stage to stage", fontsize=12)


def _write_names(axes: Axes, spans: Sequence[_Span]) -> None:
    """Write each stage's name over its span, slanted where one of them would not fit."""
    end = spans[-1].right
    slanted = any(len(span.result.name) * SHARE_OF_LETTER > (span.right - span.left) / end for span in spans)
    top = axes.secondary_xaxis("top")
    top.set_xticks(
        [(span.left + span.right) / 2 for span in spans],
        [span.result.name for span in spans],
        fontsize=11,
        rotation=30 if slanted else 0,
        ha="left" if slanted else "center",
        rotation_mode="anchor" if slanted else "default",
    )
    top.tick_params(length=0)
    top.spines[:].set_visible(False)


def _place(spans: Sequence[_Span], epoch: float) -> float:
    """Where an epoch counted over all stages lies: at the end of the stage that it completes."""
    for span in spans:
        if epoch <= span.epochs_before + _epochs(span.result):
            return span.place(epoch - span.epochs_before)
    return spans[-1].right


def _draw_control(axes: Axes, spans: Sequence[_Span], results: Sequence[StageResult]) -> None:
    control = next((result for result in results if result.name == CONTROL), None)
    if control is None:
        return
    baseline = next((span for span in spans if span.result.name == BASELINE), None)
    before = 0 if baseline is None else baseline.epochs_before + _epochs(baseline.result)
    points = [] if baseline is None else [(baseline.right, _validation_accuracy(baseline.result))]
    for epoch in control.history:
        points.append((_place(spans, before + epoch.number), epoch.val_accuracy))
    x, y = [x for x, _ in points], [math.nan if y is None else y for _, y in points]
    axes.plot(x, y, color=VERMILION, linestyle="--", linewidth=2, label="control: baseline trained further")
    after = _validation_accuracy(control)
    if after is not None and x:
        axes.plot([x[-1], x[-1]], [y[-1], after], color=VERMILION, linestyle=":", linewidth=2)
        axes.plot(x[-1], after, "o", color=VERMILION, markeredgecolor="white", markersize=9)


def _mark_best(axes: Axes, spans: Sequence[_Span], best: str | None) -> None:
    for span in spans:
        accuracy = _validation_accuracy(span.result)
        if span.result.name == best and accuracy is not None:
            label = f"kept: {best}, {100 * accuracy:.1f} %"
            axes.plot(
                span.right, accuracy, "*", color=GREEN, markersize=20, markeredgecolor="white", label=label
            )


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    if by_label:
        # Outside, because no corner of the axes is free in every run.
        figure.legend(
            by_label.values(),
            by_label.keys(),
            loc="outside lower center",
            ncols=4,
            fontsize=11,
            frameon=False,
        )
    axes.grid(axis="y", color=GREY, alpha=0.25)
