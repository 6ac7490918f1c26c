"""The table of all stages: on the terminal, in MLflow, and as Markdown, from one list of columns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bnadapt.config import BASELINE
from bnadapt.evaluation.results import Advice, StageResult, Verdict

Value = str | int | float | None
MISSING = "-"


@dataclass(frozen=True)
class Column:
    """One column of the table of stages.

    Attributes:
        key: Its name in files.
        title: Its heading for people.
        value: What it holds of a stage, given the baseline's result; None where there is nothing.
        text: How that is written.
        on_terminal: Whether the 80 columns of a terminal have room for it.
    """

    key: str
    title: str
    value: Callable[[StageResult, StageResult | None], Value]
    text: Callable[..., str]
    on_terminal: bool = True


def duration(seconds: float) -> str:
    """Seconds in at most six characters: ``4.2 s``, ``125 s``, ``21 min``, ``3.5 h``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 1000:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """A share of 1 in per cent with two decimals."""
    return f"{100 * share:.2f} %"


def _points_to_baseline(result: StageResult, baseline: StageResult | None) -> float | None:
    if result.test is None or baseline is None or baseline.test is None or result.name == BASELINE:
        return None
    return 100 * (result.test.accuracy - baseline.test.accuracy)


COLUMNS = (
    Column("stage", "stage", lambda result, _: result.name, str),
    Column("trainable_parameters", "trainable parameters", lambda result, _: result.trainable, "{:,}".format),
    Column("steps", "steps", lambda result, _: result.steps, "{:,}".format),
    Column("seconds", "time", lambda result, _: result.seconds, duration),
    Column(
        "val_accuracy",
        "validation accuracy",
        lambda result, _: result.validation.accuracy if result.validation else None,
        percent,
    ),
    Column(
        "test_accuracy",
        "test accuracy",
        lambda result, _: result.test.accuracy if result.test else None,
        percent,
    ),
    Column("test_points_to_baseline", "points to baseline", _points_to_baseline, "{:+.2f}".format),
    Column(
        "test_loss", "test loss", lambda result, _: result.test.loss if result.test else None, "{:.3f}".format
    ),
    Column(
        "test_macro_f1",
        "macro F1",
        lambda result, _: result.test.macro_f1 if result.test else None,
        "{:.3f}".format,
    ),
    Column(
        "test_calibration_error",
        "calibration error",
        lambda result, _: result.test.calibration_error if result.test else None,
        "{:.3f}".format,
        on_terminal=False,
    ),
)


def results_rows(results: Sequence[StageResult], best: str | None = None) -> list[dict[str, Value]]:
    """The table of stages as plain values with at most four decimals, one dictionary per stage, for files."""
    baseline = _baseline(results)
    return [
        {column.key: _rounded(column.value(result, baseline)) for column in COLUMNS}
        | {"best": int(result.name == best)}
        for result in results
    ]


def results_markdown(results: Sequence[StageResult], best: str | None = None) -> str:
    """The table of stages in Markdown; the best stage in bold."""
    lines = [_markdown_row([column.title for column in COLUMNS])]
    lines.append(_markdown_row(["---"] + ["---:"] * (len(COLUMNS) - 1)))
    for result, texts in zip(results, _texts(results, COLUMNS), strict=True):
        lines.append(_markdown_row([f"**{text}**" if result.name == best else text for text in texts]))
    return "\n".join(lines) + "\n"


def results_table(results: Sequence[StageResult], best: str | None = None) -> RenderableType:
    """The table of stages for the terminal, 80 columns wide; the best stage bears an asterisk."""
    columns = [column for column in COLUMNS if column.on_terminal]
    headings = [_in_two_lines(column.title) for column in columns]
    table = plain_table(headings[0], *(f">{heading}" for heading in headings[1:]), gap=1)
    for result, texts in zip(results, _texts(results, columns), strict=True):
        is_best = result.name == best
        name = Text(f"{texts[0]} *" if is_best else texts[0])
        table.add_row(name, *texts[1:], style="bold green" if is_best else None)
    if best is None:
        return table
    return Group(table, Text("* highest validation accuracy: the network that is kept", style="dim"))


def verdict_text(verdict: Verdict) -> Text:
    """What was found, the answer first, a sentence to a line."""
    first, *others = verdict.sentences or ("",)
    text = Text(first, style="bold")
    for sentence in others:
        text.append("\n" + sentence, style="not bold")
    return text


def advice_text(advice: Sequence[Advice]) -> Text:
    """What to try next, a line each under a heading; nothing where there is no advice."""
    text = Text()
    for number, each in enumerate(advice):
        if number == 0:
            text.append("What to try next, by validation", style="bold")
        text.append(f"\n- {each.sentence}")
    return text


def diagnosis_rows(results: Sequence[StageResult]) -> list[dict[str, Value]]:
    """Every batch normalization layer after every stage as plain values with four decimals, for files."""
    return [
        {
            "stage": result.name,
            "layer": layer.layer,
            "channels": layer.channels,
            "mean_gap": _rounded(layer.mean),
            "deviation_gap": _rounded(layer.deviation),
            "gammas_near_zero": None
            if math.isnan(layer.gammas_near_zero)
            else _rounded(layer.gammas_near_zero),
        }
        for result in results
        if result.diagnosis is not None
        for layer in result.diagnosis.layers
    ]


def plain_table(*headings: str, gap: int = 2) -> Table:
    """A table ruled under its headings only, so that it stays clean in a log.

    Args:
        headings: One for each column; ``>`` before it aligns the column to the right.
        gap: Spaces between columns, at least 1.
    """
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0), header_style="bold"
    )
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(
            Text(heading.removeprefix(">")),
            justify="right" if right else "left",
            vertical="top",
            overflow="fold",
            no_wrap=right,
            min_width=None if right else 6,
        )
    return table


def _rounded(value: Value) -> Value:
    return round(float(value), 4) if isinstance(value, float) else value


def _in_two_lines(title: str) -> str:
    words, _, last = title.rpartition(" ")
    return f"{words}\n{last}" if words else title


def _baseline(results: Sequence[StageResult]) -> StageResult | None:
    return next((result for result in results if result.name == BASELINE), None)


def _texts(results: Sequence[StageResult], columns: Sequence[Column]) -> list[list[str]]:
    baseline = _baseline(results)
    rows = [[(column, column.value(result, baseline)) for column in columns] for result in results]
    return [[MISSING if value is None else column.text(value) for column, value in row] for row in rows]


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
