"""What a report says: from the material to the page."""

from collections.abc import Mapping, Sequence

from bnadapt.config import BASELINE, CONTROL
from bnadapt.evaluation.results import Difference, Scores, StageResult, Verdict
from bnadapt.evaluation.significance import wilson
from bnadapt.evaluation.verdict import NAMES
from bnadapt.report.drawings import STAGES, TRAINING, look_of
from bnadapt.report.look import (
    CLASSES,
    NORMALIZATION,
    changed_rows,
    class_table,
    diagnosis_tables,
    shift_tables,
    words_on_changes,
)
from bnadapt.report.material import Material
from bnadapt.report.page import Code, Page, Plot, Section, Table
from bnadapt.report.plan import POSITIONS
from bnadapt.report.subject import page_about_rows
from bnadapt.report.tables import MISSING, duration, percent

CLASSES_NAMED = 200


def contents(material: Material, plots: Mapping[str, Sequence[Plot]], missing: Sequence[str] = ()) -> Page:
    """The page of this material.

    Args:
        material: What there is to tell.
        plots: Those that were drawn, by section.
        missing: Sentences on what could not be made.
    """
    verdict, look = material.verdict, look_of(material)
    sections = [
        Section(STAGES, tuple(missing), (_stages(material), *plots.get(STAGES, ()))),
        Section(TRAINING, (), tuple(plots.get(TRAINING, ()))),
        Section(
            CLASSES,
            words_on_changes(material.changes, BASELINE, material.best or ""),
            (*(class_table(look) if look else ()), *plots.get(CLASSES, ()), *(changed_rows(look) if look else ())),
        ),
        Section(NORMALIZATION, (), (
            *diagnosis_tables([(each.name, each.diagnosis) for each in material.results if each.diagnosis]),
            *shift_tables(material.shifts, material.source, material.target),
            *plots.get(NORMALIZATION, ()))),
        Section("Plan", material.notes, _plan(material)),
        Section("To repeat it", (), _reproduction(material)),
    ]  # fmt: skip
    page = Page(
        title=material.title,
        facts=material.facts,
        answer=verdict.answer if verdict else "",
        verdict=verdict.sentences if verdict else ("Not judged yet: the stage evaluate has not run.",),
        differences=_differences(verdict),
        advice=tuple(each.sentence for each in material.advice),
        sections=tuple(section for section in sections if section.paragraphs or section.parts),
    )
    return page_about_rows(page) if material.rows else page


def _differences(verdict: Verdict | None) -> tuple[tuple[str, Difference], ...]:
    if verdict is None:
        return ()
    against = {BASELINE: verdict.against_baseline, CONTROL: verdict.against_control}
    return tuple(
        (NAMES[name], each) for name, each in against.items() if each is not None and name != verdict.best
    )


def _stages(material: Material) -> Table:
    """Scores and costs of every stage: of the test images where there are any, else of the validation images."""
    tested = any(result.test is not None for result in material.results)
    images = "test" if tested else "validation"
    headings = (
        "stage",
        *((">validation accuracy",) if tested else ()),
        f">{images} accuracy",
        ">macro F1",
        ">calibration error",
        ">loss",
        ">trained parameters",
        ">steps",
        ">time",
    )
    rows = [_stage(result, result.name == material.best, tested) for result in material.results]
    return Table(
        headings,
        tuple(rows),
        next((row for row, each in enumerate(material.results) if each.name == material.best), None),
        note=f"Small figures are 95 % intervals of one network on its own. Macro F1, calibration error (expected, "
        f"15 bins) and loss (nats) are of the {images} images.",
    )  # fmt: skip


def _stage(result: StageResult, kept: bool, tested: bool) -> tuple[str, ...]:
    validation = percent(result.validation.accuracy) if result.validation else MISSING
    return (
        f"{result.name}\nkept" if kept else result.name,
        *((validation,) if tested else ()),
        *_scores(result.test if tested else result.validation),
        f"{result.trainable:,}",
        f"{result.steps:,}",
        duration(result.seconds),
    )


def _scores(scores: Scores | None) -> tuple[str, str, str, str]:
    if scores is None:
        return MISSING, MISSING, MISSING, MISSING
    low, high = wilson(scores)
    accuracy = f"{percent(scores.accuracy)}\n{100 * low:.1f} to {100 * high:.1f}"
    return accuracy, f"{scores.macro_f1:.3f}", f"{scores.calibration_error:.3f}", f"{scores.loss:.3f}"


def _plan(material: Material) -> tuple[Table, ...]:
    names = dict.fromkeys([*material.data, *material.source_data])
    columns = [material.data, *([material.source_data] if material.source_data else [])]
    data = Table(
        ("data", "adapted to", *(("baseline trained on",) if material.source_data else ())),
        tuple((name, *(column.get(name, MISSING) for column in columns)) for name in names),
    )
    stages = Table(
        ("stage", ">at most", ">learning rate", "trains", ">parameters", "statistics"),
        tuple(
            (
                each.name,
                each.length or MISSING,
                MISSING if each.learning_rate is None else f"{each.learning_rate:g}",
                each.trains or MISSING,
                f"{each.trainable:,}",
                each.statistics or MISSING,
            )
            for each in material.stages
        ),
        title="Stages as planned",
    )
    return (data, *((stages,) if material.stages else ()), *_sites(material))


def _sites(material: Material) -> tuple[Table, ...]:
    if material.sites is None:
        return ()
    into = Table(
        ("layer", "type", ">channels", "position"),
        tuple(
            (site.layer, site.layer_type, f"{site.channels:,}", POSITIONS.get(site.position, site.position))
            for site in material.sites
        ),
        title=f"Layers that got batch normalization: {len(material.sites)}",
        folded=len(material.sites) > 12,
    )
    passed = Table(
        ("layer", "because"),
        tuple(material.sites.passed_over.items()),
        title=f"Layers that were passed over: {len(material.sites.passed_over)}",
        folded=len(material.sites.passed_over) > 6,
    )
    return tuple(table for table in (into, passed) if table.rows)


def _reproduction(material: Material) -> tuple[Table | Code, ...]:
    known = {**material.versions, **{name: str(seed) for name, seed in material.seeds.items()}}
    named = material.classes[:CLASSES_NAMED]
    classes = [f"{number}  {' '.join(name.split())}" for number, name in enumerate(named)]
    if len(named) < len(material.classes):
        classes.append(f"and {len(material.classes) - len(named):,} more")
    return (
        Code(material.command, "Command"),
        Table(
            ("what", "value"), (("MLflow run", material.run_id), *known.items()), title="Versions and seeds"
        ),
        Code("\n".join(classes), f"Classes: {len(material.classes):,}", folded=True),
        Code(material.configuration, "Every setting", folded=True),
    )
