"""What the report of a comparison says: from the material to the page."""

from collections.abc import Mapping, Sequence

from bnadapt.config import UNTOUCHED
from bnadapt.evaluation.arms import ArmSummary, Comparison
from bnadapt.evaluation.compare_wording import counted, p_in_words
from bnadapt.evaluation.results import Difference
from bnadapt.report.comparison_axes import roles
from bnadapt.report.comparison_drawings import ARMS, CHOICE, LEVELS, TRAINING, section_of
from bnadapt.report.comparison_material import ComparisonMaterial, labels_in_words, levels_in_words, summary
from bnadapt.report.comparison_pairs import pairs_table
from bnadapt.report.comparison_tables import interval, p_value, points, rates
from bnadapt.report.look import (
    CLASSES,
    NORMALIZATION,
    changed_rows,
    class_table,
    diagnosis_tables,
    shift_tables,
    words_on_changes,
)
from bnadapt.report.page import Code, Page, Plot, Section, Table
from bnadapt.report.subject import page_about_rows
from bnadapt.report.tables import MISSING, duration, percent


def comparison_contents(
    material: ComparisonMaterial, plots: Mapping[str, Sequence[Plot]], missing: Sequence[str] = ()
) -> Page:
    """The page of this material.

    Args:
        material: What there is to tell.
        plots: Those that were drawn, by section.
        missing: Sentences on what could not be made.
    """
    found = [
        Section(LEVELS, (), (*_levels(material), *plots.get(LEVELS, ()))),
        *(each for comparison in material.comparisons for each in _of_one(material, comparison, plots)),
        *_closer_look(material, plots),
        Section("What each arm does", (), _descriptions(material)),
        Section("Pairs worth reading", (), pairs_table(material)),
        Section("Plan", material.notes, _plan(material)),
        Section("To repeat it", (), _reproduction(material)),
    ]
    sections = [section for section in found if section.paragraphs or section.parts]
    if missing:
        sections[0] = Section(
            sections[0].title, (*missing, *sections[0].paragraphs), sections[0].parts
        )  # what is missing is said where it is looked for first
    page = Page(
        title=material.heading,
        facts=material.facts,
        answer=_answer(material),
        verdict=_verdict(material),
        differences=_differences(material),
        advice=tuple(each.sentence for each in material.advice),
        sections=tuple(sections),
    )
    return page_about_rows(page) if material.rows else page


def _closer_look(material: ComparisonMaterial, plots: Mapping[str, Sequence[Plot]]) -> list[Section]:
    """What the recommended network gets right, and what its batch normalization does."""
    look, (source, target) = material.look, material.names
    words = words_on_changes(look.changes, look.before_name, look.name) if look else ()
    of_classes, rows = (class_table(look), changed_rows(look)) if look else ((), ())
    diagnosed = [(look.name, material.diagnosis)] if look and material.diagnosis else []
    tables = (*diagnosis_tables(diagnosed), *shift_tables(material.shifts, source, target))
    return [
        Section(CLASSES, words, (*of_classes, *plots.get(CLASSES, ()), *rows)),
        Section(NORMALIZATION, (), (*tables, *plots.get(NORMALIZATION, ()))),
    ]


def _answer(material: ComparisonMaterial) -> str:
    """The answer where all numbers of labels agree on it."""
    answers = {each.answer for each in material.comparisons}
    return answers.pop() if len(answers) == 1 else ""


def _verdict(material: ComparisonMaterial) -> tuple[str, ...]:
    """The sentences of the only number of labels, or with several what to use with each, and its answer."""
    if len(material.comparisons) == 1:
        return material.comparisons[0].sentences
    uses: dict[str, list[int | None]] = {}
    for each in material.comparisons:
        uses.setdefault(each.recommended, []).append(each.labels)
    first = "; ".join(f"{arm} with {levels_in_words(levels)}" for arm, levels in uses.items())
    others = [
        f"With {labels_in_words(each.labels)}: {' '.join(each.sentences[:2])}"
        for each in material.comparisons
        if each.sentences
    ]
    return (f"Use {first}.", *others)


def _differences(material: ComparisonMaterial) -> tuple[tuple[str, Difference], ...]:
    """The recommended arm against the reference and the untouched baseline; with several numbers of labels
    against the reference alone, because the other differences would squeeze these.

    With one number of labels the verdict's sentences give the p-values, else the names do.
    """
    several = len(material.comparisons) > 1
    found: list[tuple[str, Difference | None]] = []
    for each in material.comparisons:
        best = summary(each, each.recommended)
        gap = best.against_reference
        words = ""
        if several and gap is not None:
            labels = labels_in_words(each.labels).removesuffix(" per class")
            words = f", {labels}, {p_in_words(gap.p_value)}"
        found.append((each.reference + words, gap))
        if not several and each.reference != UNTOUCHED:
            found.append(("the untouched baseline", best.against_untouched))
    return tuple((name, gap) for name, gap in found if gap is not None)


def _levels(material: ComparisonMaterial) -> tuple[Table, ...]:
    """What is recommended with each number of labels, and what the choice cost; nothing with one number."""
    if len(material.comparisons) < 2:
        return ()
    rows = []
    for each in material.comparisons:
        best = summary(each, each.recommended)
        hindsight = summary(each, each.best_in_hindsight)
        rows.append(
            (
                "all" if each.labels is None else f"{each.labels:,}",
                each.recommended,
                f"{percent(best.test)}\n{interval(best)}",
                points(best.against_reference),
                points(best.against_untouched),
                f"{each.best_in_hindsight}\n{percent(hindsight.test)}",
                f"{100 * each.regret:.1f}",
            )
        )
    headings = (
        ">labels per class",
        "recommended",
        ">test accuracy",
        ">against reference",
        ">against untouched",
        "best in hindsight",
        ">regret",
    )
    note = (
        "Regret is what choosing on the validation images cost: test accuracy of the best in hindsight minus that of "
        f"the recommended arm. All differences are in percentage points, the reference is "
        f"{material.comparisons[0].reference}, and small figures are 95 % intervals."
    )
    return (Table(headings, tuple(rows), note=note),)


def _of_one(
    material: ComparisonMaterial, comparison: Comparison, plots: Mapping[str, Sequence[Plot]]
) -> list[Section]:
    """The sections of one number of labels: by subject where it is the only one, else one for all subjects."""
    titles = dict.fromkeys(section_of(material, comparison, subject) for subject in (ARMS, TRAINING, CHOICE))
    tables = {next(iter(titles)): (_arms(comparison, material),)}
    sentences = comparison.sentences if len(material.comparisons) > 1 else ()
    return [
        Section(title, sentences if title in tables else (), (*tables.get(title, ()), *plots.get(title, ())))
        for title in titles
    ]


def _arms(comparison: Comparison, material: ComparisonMaterial) -> Table:
    """Scores and costs of every arm; the recommended one stands out."""
    headings = (
        "arm",
        ">validation accuracy",
        ">test accuracy",
        ">against reference",
        ">adjusted p",
        ">macro F1",
        ">calibration error",
        ">trained parameters",
        ">learning rate",
        ">time",
    )
    seeds = len(material.repetitions)
    over = f"Means over {counted(seeds, 'seed')}. " if seeds > 1 else ""
    return Table(
        headings,
        tuple(_arm(arm, comparison, material) for arm in comparison.arms),
        next((row for row, arm in enumerate(comparison.arms) if arm.arm == comparison.recommended), None),
        note=f"{over}Small figures are 95 % intervals. The reference is {comparison.reference}; differences to it are "
        "in percentage points of test accuracy, and their p is corrected for the number of arms (Holm). Macro F1 and "
        "calibration error (expected, 15 bins) are of the test images. The recommended arm was chosen on the "
        "validation images alone; the best in hindsight is known from the test images only, and no choice.",
    )


def _arm(arm: ArmSummary, comparison: Comparison, material: ComparisonMaterial) -> tuple[str, ...]:
    words = [", ".join(roles(comparison, arm.arm)), material.descriptions.get(arm.arm, "")]
    detail = ": ".join(each for each in words if each)
    return (
        f"{arm.arm}\n{detail}" if detail else arm.arm,
        percent(arm.validation),
        f"{percent(arm.test)}\n{interval(arm)}",
        points(arm.against_reference),
        p_value(arm.adjusted),
        f"{arm.macro_f1:.3f}",
        f"{arm.calibration_error:.3f}",
        f"{arm.trainable:,}",
        rates(arm.learning_rates),
        duration(arm.seconds),
    )


def _descriptions(material: ComparisonMaterial) -> tuple[Table, ...]:
    rows = []
    for arm in material.arms:
        found = [each for each in material.results if each.arm == arm]
        kept = ", ".join(dict.fromkeys(each.kept for each in found))
        steps = max((each.steps for each in found), default=0)
        rows.append((arm, material.descriptions.get(arm, "") or MISSING, f"{steps:,}", kept or MISSING))
    return (Table(("arm", "what it does", ">optimizer steps", "network kept after"), tuple(rows)),)


def _plan(material: ComparisonMaterial) -> tuple[Table, ...]:
    names = dict.fromkeys([*material.data, *material.source_data])
    columns = [material.data, *([material.source_data] if material.source_data else [])]
    data = Table(
        ("data", "adapted to", *(("baseline trained on",) if material.source_data else ())),
        tuple((name, *(column.get(name, MISSING) for column in columns)) for name in names),
    )
    found: dict[tuple[int, str], list[int | None]] = {}
    for each in material.results:
        levels = found.setdefault((each.seed, each.baseline), [])
        if each.labels not in levels:
            levels.append(each.labels)
    baselines = Table(
        (">seed", "labels", "SHA-256 of the baseline's weights"),
        tuple(
            (str(seed), levels_in_words(levels), digest) for (seed, digest), levels in sorted(found.items())
        ),
        title="Baselines, each the same for all arms",
    )
    return tuple(table for table in (data, baselines) if table.rows)


def _reproduction(material: ComparisonMaterial) -> tuple[Table | Code, ...]:
    known = {
        "MLflow run": material.run_id,
        "wall time": duration(material.seconds),
        **material.versions,
        **material.seeds,
    }
    return (
        Code(material.command, "Command"),
        Table(("what", "value"), tuple(known.items()), title="Versions and seeds"),
        Code(material.configuration, "Every setting", folded=True),
    )
