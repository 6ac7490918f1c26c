"""The table of stages and the verdict, as text of 80 columns."""

import io
import math

import numpy as np
import pytest
from rich.console import Console, RenderableType

from bnadapt.evaluation.results import Advice, Diagnosis, LayerGap, Scores, StageResult, Verdict
from bnadapt.report.tables import (
    advice_text,
    diagnosis_rows,
    duration,
    results_markdown,
    results_rows,
    results_table,
    verdict_text,
)


def scores(accuracy: float) -> Scores:
    return Scores(accuracy, 0.125, 0.5, 0.0625, np.array([accuracy]), np.array([True]), np.array([0]))


RESULTS = [
    StageResult("baseline", 118282, 1280, 12.31, validation=scores(0.9722), test=scores(0.9639)),
    StageResult("insert", 768, 0, 0.42, validation=scores(0.9722), test=scores(0.9639)),
    StageResult("finetune", 119050, 640, 125.2, validation=scores(0.9833), test=scores(0.9611)),
    StageResult("control", 138357544, 1280, 17.0, validation=scores(0.98)),
]


def printed(renderable: RenderableType, width: int = 80) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(renderable)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_the_table_fits_80_columns_and_holds_no_control_characters() -> None:
    lines = printed(results_table(RESULTS, "finetune"))
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "* highest validation accuracy: the network that is kept"
    cells = [line.split() for line in lines[3:-1]]
    assert cells[0] == [
        "baseline",
        "118,282",
        "1,280",
        "12",
        "s",
        "97.22",
        "%",
        "96.39",
        "%",
        "-",
        "0.125",
        "0.500",
    ]
    assert cells[2] == [
        "finetune",
        "*",
        "119,050",
        "640",
        "125",
        "s",
        "98.33",
        "%",
        "96.11",
        "%",
        "-0.28",
        "0.125",
        "0.500",
    ]
    assert cells[3] == ["control", "138,357,544", "1,280", "17", "s", "98.00", "%", "-", "-", "-", "-"]


def test_long_names_and_marks_of_rich_are_printed_as_they_are() -> None:
    result = StageResult("[bold]a_stage_with_a_very_long_name", 1, 1, 1.0, validation=scores(0.5))
    lines = printed(results_table([result]))
    assert "".join(line.split(" ")[0] for line in lines[3:]) == "[bold]a_stage_with_a_very_long_name"
    assert max(map(len, lines)) <= 80


def test_a_terminal_gets_the_best_stage_in_colour_and_a_log_does_not() -> None:
    file = io.StringIO()
    Console(file=file, width=80, force_terminal=True, color_system="standard").print(
        results_table(RESULTS, "finetune")
    )
    coloured = [line for line in file.getvalue().splitlines() if "\x1b[1;32m" in line]
    assert len(coloured) == 1
    assert "finetune" in coloured[0]
    assert not any("\x1b" in line for line in printed(results_table(RESULTS, "finetune")))


def test_rows_hold_plain_values() -> None:
    rows = results_rows(RESULTS, "finetune")
    assert rows[2] == {
        "stage": "finetune",
        "trainable_parameters": 119050,
        "steps": 640,
        "seconds": 125.2,
        "val_accuracy": 0.9833,
        "test_accuracy": 0.9611,
        "test_points_to_baseline": pytest.approx(-0.28),
        "test_loss": 0.125,
        "test_macro_f1": 0.5,
        "test_calibration_error": 0.0625,
        "best": 1,
    }
    assert [row["best"] for row in rows] == [0, 0, 1, 0]
    assert rows[0]["test_points_to_baseline"] is None
    assert rows[3]["test_accuracy"] is None


def test_without_a_baseline_nothing_is_compared_with_it() -> None:
    assert [row["test_points_to_baseline"] for row in results_rows(RESULTS[1:3])] == [None, None]


def test_markdown_says_the_same() -> None:
    lines = results_markdown(RESULTS, "finetune").splitlines()
    assert lines[0].startswith("| stage | trainable parameters | steps | time | validation accuracy |")
    assert lines[2] == "| baseline | 118,282 | 1,280 | 12 s | 97.22 % | 96.39 % | - | 0.125 | 0.500 | 0.062 |"
    assert lines[4].startswith("| **finetune** | **119,050** |")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (75, "75 s"), (999, "999 s"), (1260, "21 min"), (12600, "3.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_verdict_begins_with_the_answer() -> None:
    verdict = Verdict("finetune", ("It helped.", "Against the control: no difference."), None, None, "helped")
    assert printed(verdict_text(verdict)) == ["It helped.", "Against the control: no difference."]


def test_advice_stands_under_a_heading_and_without_any_there_is_none() -> None:
    advice = [Advice("more epochs", "More epochs, [bold]really."), Advice("few labels", "More labels.")]
    assert printed(advice_text(advice)) == [
        "What to try next, by validation",
        "- More epochs, [bold]really.",
        "- More labels.",
    ]
    assert str(advice_text([])) == ""


def test_diagnosis_is_written_layer_by_layer() -> None:
    layers = (LayerGap("bn1", 4, 0.123456, 0.5, 0.25), LayerGap("bn2", 8, 0, 0, math.nan))
    results = [
        StageResult("baseline", 0, 0, 0.0),
        StageResult("adapt", 0, 0, 0.0, diagnosis=Diagnosis(layers, 10, 0.5, 0.6)),
    ]
    assert diagnosis_rows(results) == [
        {
            "stage": "adapt",
            "layer": "bn1",
            "channels": 4,
            "mean_gap": 0.1235,
            "deviation_gap": 0.5,
            "gammas_near_zero": 0.25,
        },
        {
            "stage": "adapt",
            "layer": "bn2",
            "channels": 8,
            "mean_gap": 0,
            "deviation_gap": 0,
            "gammas_near_zero": None,
        },
    ]
