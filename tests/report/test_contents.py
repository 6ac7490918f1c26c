"""What the report says of a pipeline's results, from plain values."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bnadapt.evaluation.changes import ChangedImage, Changes
from bnadapt.evaluation.results import (
    Advice,
    Diagnosis,
    Difference,
    LayerGap,
    LayerShift,
    Scores,
    StageResult,
    Verdict,
)
from bnadapt.report.contents import contents
from bnadapt.report.drawings import drawings
from bnadapt.report.material import Material
from bnadapt.report.page import Code, Page, Plot, Section, Table, html, markdown
from bnadapt.report.plan import PlanStage

LABELS = np.arange(100) % 2


def scores(right: int) -> Scores:
    correct = np.arange(100) < right
    return Scores(
        accuracy=right / 100,
        loss=0.25,
        macro_f1=0.5,
        calibration_error=0.125,
        recall=np.array([right / 100] * 2),
        correct=correct,
        predicted=np.where(correct, LABELS, 1 - LABELS),
    )


def stage(name: str, right: int, diagnosis: Diagnosis | None = None) -> StageResult:
    return StageResult(
        name, 1234, 56, 7.8, validation=scores(right), test=scores(right - 1), diagnosis=diagnosis
    )


def diagnosis(*layers: LayerGap) -> Diagnosis:
    return Diagnosis(layers, images=64, inference_accuracy=0.875, batch_accuracy=0.75)


GAPS = (
    LayerGap("conv_inserted_bn", 30, mean=0.25, deviation=0.5, gammas_near_zero=0.1),
    LayerGap("dense_inserted_bn", 10, mean=0.125, deviation=0.5, gammas_near_zero=0.5),
    LayerGap("bare_inserted_bn", 10, mean=0.0, deviation=0.0, gammas_near_zero=math.nan),
)
CHANGES = Changes(gained=10, lost=0, shown=(ChangedImage(index=80, label=0, before=1, after=0),))
MATERIAL = Material(
    source="mnist",
    target="usps",
    facts=("cnn 8-16", "seed 3"),
    classes=("zero", "one"),
    data={"name": "usps", "SHA-256": "c0ffee"},
    source_data={"name": "mnist", "SHA-256": "decade"},
    notes=("images are resized",),
    sites=None,
    stages=(PlanStage("adapt", "5 epochs", 0.001, "batch_norm", 80, "batch"),),
    results=(
        stage("baseline", 80),
        stage("adapt", 90, diagnosis(*GAPS)),
        stage("finetune", 85, diagnosis(*GAPS)),
        stage("control", 70),
    ),
    best="adapt",
    verdict=Verdict(
        "adapt",
        ("It helped.",),
        Difference(0.1, 0.05, 0.15, 0.01, 10, 0),
        Difference(0.2, 0.1, 0.3, 0.001, 20, 0),
        "helped",
    ),
    advice=(Advice("more labels", "More labels."),),
    shifts=(LayerShift("conv_inserted_bn", 30, divergence=0.5, mean=0.25, deviation=0.125),),
    labels=LABELS,
    changes=CHANGES,
    changed_images=np.zeros((1, 8, 8, 1), "uint8"),
    command="bnadapt data=usps",
    versions={"bnadapt": "0.1.0"},
    seeds={"seed": 3},
    configuration="seed: 3\n",
    run_id="f00",
)
UNJUDGED = replace(
    MATERIAL,
    verdict=None,
    best=None,
    advice=(),
    labels=None,
    changes=None,
    changed_images=None,
    results=(
        replace(MATERIAL.results[0], test=None),
        replace(MATERIAL.results[1], test=None, diagnosis=None),
    ),
    shifts=(),
    source="usps",
    source_data={},
)


def section(page: Page, title: str) -> Section:
    return next(each for each in page.sections if each.title == title)


def table(page: Page, title: str, number: int = 0) -> Table:
    return [part for part in section(page, title).parts if isinstance(part, Table)][number]


def test_the_verdict_and_what_it_rests_on_come_first() -> None:
    page = contents(MATERIAL, {})
    assert page.title == "mnist to usps"
    assert (page.answer, page.verdict, page.advice) == ("helped", ("It helped.",), ("More labels.",))
    assert [(name, each.estimate) for name, each in page.differences] == [
        ("the untouched baseline", 0.1),
        ("the baseline trained further without BN", 0.2),
    ]


def test_the_baseline_is_not_compared_with_itself() -> None:
    kept = replace(MATERIAL, best="baseline", verdict=replace(MATERIAL.verdict, best="baseline"))
    assert [name for name, _ in contents(kept, {}).differences] == ["the baseline trained further without BN"]


def test_the_table_of_stages_holds_test_scores_with_their_intervals_and_costs() -> None:
    found = table(contents(MATERIAL, {}), "Stages")
    assert found.headings[1:3] == (">validation accuracy", ">test accuracy")
    assert found.emphasized == 1
    assert found.rows[1] == (
        "adapt\nkept", "90.00 %", "89.00 %\n81.4 to 93.7", "0.500", "0.125", "0.250", "1,234", "56", "7.8 s",
    )  # fmt: skip
    assert [row[0] for row in found.rows] == ["baseline", "adapt\nkept", "finetune", "control"]


def test_before_evaluation_the_scores_are_of_the_validation_images() -> None:
    page = contents(UNJUDGED, {})
    found = table(page, "Stages")
    assert found.headings[1] == ">validation accuracy"
    assert found.rows[1][:3] == ("adapt", "90.00 %\n82.6 to 94.5", "0.500")
    assert "of the validation images" in found.note
    assert page.verdict == ("Not judged yet: the stage evaluate has not run.",)
    assert (page.title, page.answer, page.differences) == ("usps", "", ())
    assert [each.title for each in page.sections] == ["Stages", "Plan", "To repeat it"]


def test_a_stage_without_scores_has_a_row() -> None:
    bare = replace(MATERIAL, results=(*MATERIAL.results, StageResult("late", 0, 0, 1.0)))
    assert table(contents(bare, {}), "Stages").rows[-1][:6] == ("late", *["-"] * 5)


def test_batch_normalization_is_told_of_for_every_stage_that_has_it() -> None:
    found = table(contents(MATERIAL, {}), "Batch normalization")
    # (30 * 0.1 + 10 * 0.5) / 40; the layer without gamma does not count.
    expected = ("87.50 %", "75.00 %", "0.250\nconv_inserted_bn", "20.00 %")
    assert found.rows == (("adapt", *expected), ("finetune", *expected))
    assert "64 validation images" in found.note


def test_a_network_without_any_gamma_has_no_share() -> None:
    results = (stage("adapt", 90, diagnosis(GAPS[2])),)
    assert table(contents(replace(MATERIAL, results=results), {}), "Batch normalization").rows[0][-1] == "-"


def test_the_shift_is_told_layer_by_layer() -> None:
    found = table(contents(MATERIAL, {}), "Batch normalization", 1)
    assert found.title == "From mnist to usps, layer by layer"
    assert found.rows == (("conv_inserted_bn", "30", "0.500", "0.250", "0.125"),)
    assert not found.folded
    many = contents(replace(MATERIAL, shifts=MATERIAL.shifts * 20), {})
    assert table(many, "Batch normalization", 1).folded


def test_changed_images_are_counted_in_words() -> None:
    assert section(contents(MATERIAL, {}), "Classes and images").paragraphs == (
        "Of the test images 10 that baseline got wrong are right after adapt, and 0 that it got right are wrong.",
    )


def test_the_plan_holds_data_stages_and_layers() -> None:
    sites = Sites(
        [SimpleNamespace(layer="conv", layer_type="Conv2D", channels=1234, position="before_activation")]
    )
    page = contents(replace(MATERIAL, sites=sites), {})
    assert section(page, "Plan").paragraphs == ("images are resized",)
    assert table(page, "Plan", 0).rows == (("name", "usps", "mnist"), ("SHA-256", "c0ffee", "decade"))
    assert table(page, "Plan", 1).rows == (("adapt", "5 epochs", "0.001", "batch_norm", "80", "batch"),)
    assert table(page, "Plan", 2).rows == (("conv", "Conv2D", "1,234", "before the activation"),)
    assert table(page, "Plan", 3).rows == (("head", "the head"),)


class Sites(list):
    passed_over = {"head": "the head"}  # noqa: RUF012


def test_what_repeats_it_is_complete() -> None:
    parts = section(contents(MATERIAL, {}), "To repeat it").parts
    codes = {part.title: part.text for part in parts if isinstance(part, Code)}
    assert codes == {
        "Command": "bnadapt data=usps",
        "Classes: 2": "0  zero\n1  one",
        "Every setting": "seed: 3\n",
    }
    rows = {row for part in parts if isinstance(part, Table) for row in part.rows}
    assert {("bnadapt", "0.1.0"), ("seed", "3"), ("MLflow run", "f00")} <= rows


def test_of_very_many_classes_some_are_named_and_names_stay_on_their_line() -> None:
    names = ("two\nlines", *(f"class {number}" for number in range(1, 1000)))
    parts = section(contents(replace(MATERIAL, classes=names), {}), "To repeat it").parts
    (text,) = (part.text for part in parts if isinstance(part, Code) and part.title == "Classes: 1,000")
    assert text.startswith("0  two lines\n1  class 1\n")
    assert text.endswith("199  class 199\nand 800 more")


def test_plots_stand_in_their_sections_and_missing_ones_are_named() -> None:
    plots = {each.section: [Plot(each.path, each.title, b"png")] for each in drawings(MATERIAL)}
    page = contents(MATERIAL, plots, ["Missing: a plot."])
    for title, (plot,) in plots.items():
        assert plot in section(page, title).parts
    assert section(page, "Stages").paragraphs == ("Missing: a plot.",)


def test_every_plot_of_the_material_can_be_drawn() -> None:
    found = drawings(MATERIAL)
    assert [each.path for each in found] == [
        f"plots/{name}.png"
        for name in (
            "accuracy_by_stage", "validation_accuracy", "loss", "recall_change", "confusion_matrix", "changed_images",
            "statistics_gap", "statistics_shift",
        )
    ]  # fmt: skip
    for each in found:
        assert each.png().startswith(b"\x89PNG"), each.name


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"shifts": ()}, {"statistics_shift"}),
        ({"best": "baseline", "changes": None}, {"recall_change", "changed_images"}),
        ({"changes": replace(CHANGES, shown=())}, {"changed_images"}),
        ({"changed_images": None}, {"changed_images"}),
        ({"labels": None}, {"recall_change", "confusion_matrix", "changed_images"}),
        ({"results": MATERIAL.results[1:2]}, {"recall_change"}),
    ],
)
def test_plots_that_nothing_is_known_of_are_left_out(changes: dict[str, object], names: set[str]) -> None:
    fewer = {each.name for each in drawings(replace(MATERIAL, **changes))}
    assert {each.name for each in drawings(MATERIAL)} - fewer == names


def test_the_layers_drawn_are_the_kept_stages_else_the_last_ones() -> None:
    assert MATERIAL.diagnosed() is MATERIAL.results[1]
    kept_baseline = replace(MATERIAL, best="baseline")
    assert kept_baseline.diagnosed() is MATERIAL.results[2]
    assert UNJUDGED.diagnosed() is None


@pytest.mark.parametrize("material", [MATERIAL, UNJUDGED], ids=["judged", "unjudged"])
def test_the_whole_becomes_a_page_and_markdown(material: Material) -> None:
    page = contents(material, {})
    assert "c0ffee" in html(page)
    assert "c0ffee" in markdown(page)
