"""What the report of a comparison says, from plain values to the page."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bnadapt.evaluation.arms import Comparison
from bnadapt.evaluation.compare_wording import p_in_words
from bnadapt.evaluation.resampling import mean_difference
from bnadapt.evaluation.results import LayerShift
from bnadapt.report.comparison_contents import comparison_contents
from bnadapt.report.comparison_drawings import comparison_drawings
from bnadapt.report.comparison_material import ComparisonMaterial, summary
from bnadapt.report.comparison_pairs import PAIRS, RESAMPLES
from bnadapt.report.comparison_tables import p_value
from bnadapt.report.look import Look
from bnadapt.report.page import Code, Page, Plot, Section, Table, html, markdown
from tests.report.comparison_examples import ARMS, material
from tests.report.test_contents import CHANGES, GAPS, diagnosis, scores
from tests.report.test_page import HOSTILE, Reader, rendered

FULL = material(images=500)
ONE = FULL.comparisons[0]
PAGE = comparison_contents(FULL, {})
LEVELS = material(labels=(10, None), arms=ARMS[:6], images=300)
LEVELS_PAGE = comparison_contents(LEVELS, {})


def section(page: Page, title: str) -> Section:
    return next(each for each in page.sections if each.title == title)


def table(page: Page, title: str, number: int = 0) -> Table:
    return [part for part in section(page, title).parts if isinstance(part, Table)][number]


def with_comparison(found: ComparisonMaterial, **changes: object) -> ComparisonMaterial:
    return replace(found, comparisons=(replace(found.comparisons[0], **changes),))


def test_what_to_use_and_what_it_rests_on_come_first() -> None:
    assert PAGE.title == "mnist to usps, 10 labels per class"
    assert PAGE.facts == FULL.facts
    assert PAGE.answer == ONE.answer
    assert PAGE.verdict[0] == ONE.sentences[0]
    best = summary(ONE, ONE.recommended)
    assert PAGE.differences == (
        ("further_training", best.against_reference),
        ("the untouched baseline", best.against_untouched),
    )
    assert PAGE.advice == (FULL.advice[0].sentence,)


def test_the_p_values_of_the_two_deciding_comparisons_are_told() -> None:
    """By the sentences, and with several numbers of labels by the names beside the intervals."""
    assert PAGE.verdict == ONE.sentences
    best = summary(ONE, ONE.recommended)
    for text in (html(PAGE), markdown(PAGE).replace("\\", "")):
        told = re.findall(r"p (?:=|&lt;|<) [0-9.]+[0-9]", text)
        for gap in (best.against_reference, best.against_untouched):
            assert p_in_words(gap.p_value) in [each.replace("&lt;", "<") for each in told]
    gaps = [summary(each, each.recommended).against_reference for each in LEVELS.comparisons]
    assert LEVELS_PAGE.differences == (
        (f"further_training, 10 labels, {p_in_words(gaps[0].p_value)}", gaps[0]),
        (f"further_training, all labels, {p_in_words(gaps[1].p_value)}", gaps[1]),
    )


def test_the_reference_is_not_compared_with_itself() -> None:
    page = comparison_contents(with_comparison(FULL, recommended="further_training"), {})
    assert [name for name, _ in page.differences] == ["the untouched baseline"]
    untouched = material(images=300, arms=ARMS[:4], reference="untouched")
    assert [name for name, _ in comparison_contents(untouched, {}).differences] == ["untouched"]


def test_the_table_of_arms_holds_scores_and_costs_in_the_comparisons_order() -> None:
    found = table(PAGE, "Arms")
    assert [re.split("\n", row[0])[0] for row in found.rows] == [name for name, *_ in ARMS]
    head = summary(ONE, "head")
    gap = head.against_reference
    assert found.rows[3] == (
        "head\nthe head alone, no BN",
        f"{100 * head.validation:.2f} %",
        f"{100 * head.test:.2f} %\n{100 * head.low:.1f} to {100 * head.high:.1f}",
        f"{100 * gap.estimate:+.1f}\n{100 * gap.low:+.1f} to {100 * gap.high:+.1f}",
        f"{head.adjusted:.3f}",
        f"{head.macro_f1:.3f}",
        f"{head.calibration_error:.3f}",
        "650",
        "0.01",
        "2.7 s",
    )
    assert found.rows[1][0] == "further_training\nreference: everything trains, no BN"
    assert found.rows[1][3:5] == ("-", "-")
    assert found.rows[0][-2] == "-"
    assert found.rows[found.emphasized][0].startswith(f"{ONE.recommended}\nrecommended")
    assert any("best in hindsight" in row[0] for row in found.rows)
    assert "Means over 3 seeds." in found.note
    assert "The reference is further_training" in found.note


def test_an_arm_without_a_description_has_its_name_alone() -> None:
    page = comparison_contents(replace(FULL, descriptions={}), {})
    assert table(page, "Arms").rows[3][0] == "head"
    assert table(page, "What each arm does").rows[3][:2] == ("head", "-")


def test_one_seed_is_no_mean() -> None:
    one = material(images=100, arms=ARMS[:3], seeds=(0,))
    assert "seed" not in table(comparison_contents(one, {}), "Arms").note


def test_several_numbers_of_labels_are_told_side_by_side_and_one_by_one() -> None:
    first, second = LEVELS.comparisons
    assert [each.title for each in LEVELS_PAGE.sections] == [
        "Numbers of labels", "10 labels per class", "All labels", "What each arm does", "Plan", "To repeat it",
    ]  # fmt: skip
    assert table(LEVELS_PAGE, "Numbers of labels").rows[1][:3] == (
        "all",
        second.recommended,
        table(LEVELS_PAGE, "All labels").rows[[arm.arm for arm in second.arms].index(second.recommended)][2],
    )
    assert [row[-1] for row in table(LEVELS_PAGE, "Numbers of labels").rows] == [
        f"{100 * each.regret:.1f}" for each in (first, second)
    ]
    assert section(LEVELS_PAGE, "All labels").paragraphs == second.sentences
    assert LEVELS_PAGE.verdict[1].startswith(f"With 10 labels per class: {first.sentences[0]}")
    assert all(name.startswith("further_training, ") for name, _ in LEVELS_PAGE.differences)


def recommending(first: str, second: str, *answers: str) -> Page:
    one, two = LEVELS.comparisons
    return comparison_contents(
        replace(
            LEVELS,
            comparisons=(
                replace(one, recommended=first, answer=answers[0] if answers else ""),
                replace(two, recommended=second, answer=answers[-1] if answers else ""),
            ),
        ),
        {},
    )


def test_the_first_sentence_says_what_to_use_with_which_labels() -> None:
    assert recommending("head", "finetune").verdict[0] == (
        "Use head with 10 labels per class; finetune with all labels."
    )
    assert recommending("head", "head").verdict[0] == "Use head with 10 and all labels per class."


def test_the_answer_of_several_numbers_of_labels_is_the_one_that_all_give() -> None:
    assert recommending("head", "head", "helped", "helped").answer == "helped"
    assert recommending("head", "head", "helped", "hurt").answer == ""


def test_pairs_are_compared_over_the_seeds_on_the_same_images() -> None:
    found = table(PAGE, "Pairs worth reading")
    assert [row[1:3] for row in found.rows] == [(pair.first, pair.second) for pair in PAIRS]
    results = FULL.of(ONE)
    for row in found.rows:
        first, second = ([each.test.accuracy for each in results[name]] for name in row[1:3])
        assert float(row[3]) == pytest.approx(100 * (np.mean(first) - np.mean(second)), abs=0.051)
        low, high = (float(end) for end in row[4].split(" to "))
        assert low <= float(row[3]) <= high
        tests = [[each.test for each in results[name]] for name in row[1:3]]
        assert row[5] == p_value(mean_difference(*tests, resamples=RESAMPLES).p_value)
    assert table(PAGE, "Pairs worth reading").headings[-1] == ">p"


def test_random_weights_are_paired_with_what_differs_in_one_thing_only() -> None:
    found = {(pair.first, pair.second): pair.question for pair in PAIRS}
    assert found["statistics_then_affine", "random_weights"] == (
        "gamma and beta instead of as many random weights, both on the target's statistics (after Frankle et al., 2021)"
    )
    assert found["procedure", "procedure_standard"] == (
        "calibrated insertion instead of gamma 1, beta 0, mean 0, variance 1"
    )
    assert ("bn_only", "random_weights") not in found


def test_a_pair_needs_both_arms_and_a_seed_in_common() -> None:
    only = {"statistics_then_affine", "random_weights", "untouched", "further_training", "procedure"}
    some = material(images=100, arms=[arm for arm in ARMS if arm[0] in only])
    found = table(comparison_contents(some, {}), "Pairs worth reading")
    assert [row[1:3] for row in found.rows] == [("statistics_then_affine", "random_weights")]
    apart = replace(
        some,
        results=tuple(
            each for each in some.results if each.arm != "statistics_then_affine" or each.seed == 5
        ),
    )
    assert "Pairs worth reading" not in [each.title for each in comparison_contents(apart, {}).sections]


def test_pairs_name_their_number_of_labels_where_there_are_several() -> None:
    names = {"statistics_then_affine", "random_weights", "untouched", "further_training"}
    levels = material(labels=(10, None), images=100, arms=[arm for arm in ARMS if arm[0] in names])
    found = table(comparison_contents(levels, {}), "Pairs worth reading")
    assert [row[1] for row in found.rows] == ["10 labels per class", "all labels"]


def test_the_plan_holds_the_data_and_every_baseline() -> None:
    plan = section(PAGE, "Plan")
    assert plan.paragraphs == FULL.notes
    assert ("SHA-256", "c0ffee", "decade") in table(PAGE, "Plan").rows
    assert table(PAGE, "Plan", 1).rows == tuple(
        (str(seed), "10 labels per class", f"{seed:02x}" * 32) for seed in (0, 1, 2)
    )
    assert table(LEVELS_PAGE, "Plan", 1).rows[0][:2] == ("0", "10 and all labels per class")
    same = comparison_contents(replace(FULL, source_data={}), {})
    assert table(same, "Plan").headings == ("data", "adapted to")


def test_what_repeats_it_is_complete() -> None:
    parts = section(PAGE, "To repeat it").parts
    codes = {part.title: part.text for part in parts if isinstance(part, Code)}
    assert codes == {"Command": FULL.command, "Every setting": FULL.configuration}
    rows = {row for part in parts if isinstance(part, Table) for row in part.rows}
    assert {
        ("MLflow run", "f00dfeed"), ("wall time", "21 min"), ("bnadapt", "0.1.0"), ("comparison.seeds", "0, 1, 2"),
    } <= rows  # fmt: skip


def test_what_each_arm_does_is_told() -> None:
    assert table(PAGE, "What each arm does").rows[1] == (
        "further_training", "everything trains, no BN", "300", "all",
    )  # fmt: skip


@pytest.mark.parametrize("found", [FULL, LEVELS])
def test_plots_stand_in_their_sections_and_missing_ones_are_named(found: ComparisonMaterial) -> None:
    plots: dict[str, list[Plot]] = {}
    for each in comparison_drawings(found):
        plots.setdefault(each.section, []).append(Plot(each.path, each.title, b"png"))
    page = comparison_contents(found, plots, ["Missing: a plot."])
    for title, drawn in plots.items():
        assert [part for part in section(page, title).parts if isinstance(part, Plot)] == drawn
    assert page.sections[0].paragraphs[0] == "Missing: a plot."


def test_only_the_wide_table_is_dense() -> None:
    classes = [each.get("class") for each in Reader(html(PAGE)).all("table")]
    assert classes.count("dense") == 1
    assert classes[:2] == ["intervals", "dense"]


def test_hostile_names_are_shown_as_they_are() -> None:
    comparison = _renamed(ONE, "head", HOSTILE)
    found = replace(
        FULL,
        title=HOSTILE,
        comparisons=(comparison,),
        descriptions={HOSTILE: HOSTILE},
        results=tuple(replace(each, arm=HOSTILE) if each.arm == "head" else each for each in FULL.results),
    )
    page = comparison_contents(found, {})
    read = Reader(html(page))
    assert not {tag for tag, _ in read.elements} & {"script", "img", "a-b"}
    assert read.text.count(HOSTILE) >= 5
    assert not {tag for tag, _ in rendered(markdown(page)).elements} & {"script", "a"}


def test_markdown_says_the_same() -> None:
    text = markdown(PAGE)
    assert text.startswith("# mnist to usps, 10 labels per class\n")
    assert "| head (the head alone, no BN) |" in text
    assert f"| **{ONE.recommended} (recommended" in text


def _renamed(comparison: Comparison, name: str, new: str) -> Comparison:
    return replace(
        comparison,
        arms=tuple(replace(each, arm=new) if each.arm == name else each for each in comparison.arms),
    )


def test_the_recommended_network_is_looked_at_closely() -> None:
    labels = np.arange(100) % 2
    look = Look(
        "bn_only, seed 1", "untouched", ("zero", "one"), labels, scores(90), scores(80), CHANGES,
        np.zeros((1, 8, 8, 1), "uint8"),
    )  # fmt: skip
    shifts = (LayerShift("conv_inserted_bn", 30, divergence=0.5, mean=0.25, deviation=0.125),)
    found = replace(FULL, look=look, diagnosis=diagnosis(*GAPS), shifts=shifts)
    page = comparison_contents(found, {})
    assert section(page, "Classes and images").paragraphs == (
        "Of the test images 10 that untouched got wrong are right after bn_only, seed 1, and 0 that it got right are "
        "wrong.",
    )
    assert table(page, "Batch normalization").rows[0][:3] == ("bn_only, seed 1", "87.50 %", "75.00 %")
    assert table(page, "Batch normalization", 1).title == "From mnist to usps, layer by layer"
    drawn = {each.path: each for each in comparison_drawings(found)}
    more = {f"plots/{name}.png" for name in (
        "recall_change", "confusion_matrix", "changed_images", "statistics_gap", "statistics_shift",
    )}  # fmt: skip
    assert more <= set(drawn)
    assert not more & {each.path for each in comparison_drawings(FULL)}
    assert all(drawn[path].png().startswith(b"\x89PNG") for path in more)


def test_an_untouched_recommendation_has_nothing_to_be_compared_with() -> None:
    look = Look("untouched", "untouched", ("zero", "one"), np.arange(100) % 2, scores(90))
    paths = {each.path for each in comparison_drawings(replace(FULL, look=look))}
    assert "plots/confusion_matrix.png" in paths
    assert not {"plots/recall_change.png", "plots/changed_images.png", "plots/statistics_gap.png"} & paths
