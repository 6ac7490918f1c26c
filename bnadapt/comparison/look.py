"""A closer look at the recommended network: its classes, its batch normalization, the shift that it met."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import keras

from bnadapt.artifacts import attempt
from bnadapt.config import UNTOUCHED
from bnadapt.evaluation.changes import changed_images, images_at
from bnadapt.evaluation.diagnostics import diagnose, measure_shift
from bnadapt.evaluation.results import Diagnosis, LayerShift
from bnadapt.models.load import load_file
from bnadapt.report.look import Look
from bnadapt.start import Start

if TYPE_CHECKING:
    from bnadapt.comparison.work import Work


@dataclass(frozen=True)
class CloserLook:
    """What there is to see in one network; each part is missing where it failed or makes no sense."""

    look: Look | None
    diagnosis: Diagnosis | None
    shifts: tuple[LayerShift, ...]


def look_closely(work: "Work", place: int, start: Start) -> CloserLook:
    """Look at the network of the result at this place; what fails is missing and costs nothing else."""
    keras.utils.clear_session()
    sizes, seed = work.settings, work.settings.seed
    diagnosis = attempt(
        "the diagnosis of the recommended network",
        lambda: diagnose(
            load_file(work.done[place].path, work.settings.model),
            start.splits.unlabelled.mixed(sizes.evaluation.batch_size, seed=seed),
            start.splits.validation.mixed(sizes.data.batch_size, seed=seed),
        ),
    )
    look = attempt("the closer look at the recommended network", lambda: _look(work, place, start))
    shifts = attempt("the shift between the data sets", lambda: _shifts(work, start)) or ()
    return CloserLook(look, diagnosis, shifts)


def _look(work: "Work", place: int, start: Start) -> Look:
    result, splits = work.results[place], start.splits
    before = next(
        each.test
        for each in work.results
        if (each.arm, each.seed, each.labels) == (UNTOUCHED, result.seed, result.labels)
    )
    assert result.test is not None
    labels, several = splits.test.labels(), len(work.settings.comparison.seeds) > 1
    name = f"{result.arm}, seed {result.seed}" if several else result.arm
    if result.arm == UNTOUCHED or before is None:
        return Look(name, UNTOUCHED, splits.classes, labels, result.test)
    changes = changed_images(labels, before, result.test)
    batches = splits.test.batches(work.settings.evaluation.batch_size)
    images = images_at(batches, [each.index for each in changes.shown])
    return Look(name, UNTOUCHED, splits.classes, labels, result.test, before, changes, images)


def _shifts(work: "Work", start: Start) -> tuple[LayerShift, ...]:
    """How differently the two data sets reach each place where batch normalization was put."""
    path = work.calibrated() if start.transfers else None
    if path is None:
        return ()
    network = load_file(path, work.settings.model)
    size, seed = work.settings.evaluation.batch_size, work.settings.seed
    before, after = start.source_splits.unlabelled, start.splits.unlabelled
    return measure_shift(network, before.mixed(size, seed=seed), after.mixed(size, seed=seed))
