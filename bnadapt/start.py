"""What a pipeline starts from: the data, the first network, and what the plan says before it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from bnadapt.checks.pipeline import single_image_mistake
from bnadapt.config import (
    BASELINE,
    INSERT,
    DataSettings,
    Settings,
    StageSettings,
    chosen_stages,
    stage_order,
)
from bnadapt.data.load import Description, choose_image_shape, describe, load
from bnadapt.data.overlap import overlap_notes
from bnadapt.data.splits import Splits
from bnadapt.errors import StageError
from bnadapt.identity import overrides, parameters_of_run, run_name
from bnadapt.models.build import build
from bnadapt.models.fit_to_data import (
    Fitted,
    fit_to_data,
    input_shape,
    returns_probabilities,
    with_pixels,
)
from bnadapt.models.load import load_file
from bnadapt.models.precision import with_precision
from bnadapt.normalization.patch import apply_patch
from bnadapt.normalization.policy import ALL, HEAD
from bnadapt.rehearsal import notes_on_statistics, rehearse
from bnadapt.report.plan import PlanStage
from bnadapt.secrets import redacted
from bnadapt.stages import needed_before, require_stages
from bnadapt.surgery.rebuild import without_recorded_training
from bnadapt.surgery.sites import Sites
from bnadapt.tracking.history import StoredStage, parameters_of, stages_of
from bnadapt.tracking.models import load_model
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.versions import versions

AUTO = "auto"
ROWS_AT_ONCE = 4096  # of a table, where its means and variances are measured


@dataclass(frozen=True)
class Start:
    """What a pipeline starts from.

    Attributes:
        network: Of the first stage: new, from a file, or as an earlier run left it.
        splits: The data adapted to.
        source_splits: The data that the baseline trains on; the same object where it is the same.
        earlier: Stages of earlier runs, by name.
        from_logits: Whether the network's outputs are logits.
        baseline: How the baseline trains on its own data.
        new_head_for_target: Whether the trained baseline then needs another head.
        sites: Where batch normalization will go, found by a rehearsal on the untrained network.
        stages: What the training stages will do.
        notes: What the user should know of data and network.
        parameters: What users vary, to record with the run.
        run_name: Of the run, what differs between runs first.
        versions: Which programs run, as they were when this start was made.
    """

    network: keras.Model
    splits: Splits
    source_splits: Splits
    earlier: dict[str, StoredStage]
    from_logits: bool
    baseline: StageSettings
    new_head_for_target: bool
    sites: Sites
    stages: tuple[PlanStage, ...]
    notes: tuple[str, ...]
    parameters: dict[str, str]
    run_name: str
    versions: Mapping[str, str]

    @property
    def transfers(self) -> bool:
        """Whether the baseline trains on other data than those adapted to."""
        return self.source_splits is not self.splits


def prepare(
    settings: Settings,
    tracker: Tracker,
    command: Sequence[str] = ("bnadapt",),
    *,
    read: Callable[[DataSettings, tuple[int, ...]], Splits] | None = None,
) -> Start:
    """Get the data and the first network, and find out everything that can go wrong before training.

    Args:
        settings: Checked settings.
        tracker: Where earlier runs and their networks are.
        command: The words that the user typed.
        read: Reads a data set; one that remembers what it has read saves time where there are several starts.

    Raises:
        StageError: a chosen stage needs another one's result that is not there.
        DataError, ModelError, SurgeryError, TrackingError: as their names say.
    """
    running = versions()  # now: a checkout may change while a run takes its hours
    read = read or load
    keras.utils.clear_session()  # what an earlier job of a sweep left
    stages = chosen_stages(settings)
    earlier = stages_of(tracker, settings.from_run) if settings.from_run else {}
    before = parameters_of(tracker, settings.from_run) if settings.from_run else {}
    _require_networks(settings, earlier, command)
    target = describe(settings.data)
    _require_same_data(settings, before, target, command)
    source = describe(settings.baseline_data) if settings.baseline_data else target
    keras.utils.set_random_seed(settings.seed)
    if BASELINE in stages:
        fitted = _first_network(settings, tracker, settings.baseline_data or settings.data, source, read)
    else:
        fitted = _network_of(settings, tracker, earlier, stages, target)
    splits = read(settings.data, image_shape_for(settings.data, target, fitted.network))
    mistake = single_image_mistake(settings, splits.train.size)
    if mistake is not None:
        raise StageError(mistake)
    same = settings.baseline_data is None or not {BASELINE, INSERT} & set(stages)
    source_splits = splits if same else read(settings.baseline_data, splits.image_shape)  # type: ignore[arg-type]
    on_target = _with_head_for(fitted.network, splits)
    how = _baseline_training(settings, fitted)
    parameters = parameters_of_run(settings, source, target, stages, before)
    sites, plan = rehearse(settings, stages, fitted.network, on_target.network, how)
    notes = [*fitted.notes, *splits.notes, *notes_on_statistics(settings, on_target.network, same)]
    if not same:
        notes += overlap_notes(source_splits, splits)
        notes += [f"{source_splits.name}: {note}" for note in source_splits.notes]
        notes += [f"{splits.name}: {note}" for note in on_target.notes]
        if on_target.new_head is None and source.classes != target.classes:
            notes.append(
                f"{splits.name} has as many classes as {source_splits.name}, by other names: the head is kept"
            )
    return Start(
        network=fitted.network,
        splits=splits,
        source_splits=source_splits,
        earlier=earlier,
        from_logits=not returns_probabilities(fitted.network),
        baseline=how,
        new_head_for_target=on_target.new_head is not None,
        sites=sites,
        stages=plan,
        notes=tuple(notes),
        parameters=parameters | overrides(command),
        run_name=redacted(settings.tracking.run_name or run_name(parameters)),
        versions=running,
    )


def _require_networks(settings: Settings, earlier: dict[str, StoredStage], command: Sequence[str]) -> None:
    require_stages(settings, earlier, command)
    needed = needed_before(settings)
    if needed is not None and earlier[needed].model_uri is None:
        raise StageError(
            f"from_run={settings.from_run}: stage {needed} kept no network (tracking.log_models=false); "
            "run it again with tracking.log_models=true"
        )


def _require_same_data(
    settings: Settings, before: Mapping[str, str], target: Description, command: Sequence[str]
) -> None:
    """Refuse to go on with other data than the earlier run's, unless the command names them."""
    named = any(word.startswith(("data=", "data.name=", "data.path=")) for word in command)
    if before.get("data", target.name) != target.name and not named:
        raise StageError(
            f"run {settings.from_run} worked on {before['data']}, this command on {target.name}: repeat the "
            f"settings of that run (data={before['data']} ...), or name data={target.name} to change the data"
        )


def image_shape_for(
    settings: DataSettings, description: Description, network: keras.Model
) -> tuple[int, ...]:
    """Height, width and channels that a network gets from a data set, or ``(features,)`` of rows of numbers."""
    return choose_image_shape(settings, description, input_shape(network))


def summary_of(network: keras.Model) -> str:
    """The network's layers as Keras prints them."""
    lines: list[str] = []
    network.summary(print_fn=lines.append, expand_nested=True, show_trainable=True, line_length=100)
    return "\n".join(lines)


def _first_network(
    settings: Settings,
    tracker: Tracker,
    data: DataSettings,
    source: Description,
    read: Callable[[DataSettings, tuple[int, ...]], Splits],
) -> Fitted:
    model = settings.model
    if model.kind != "file":
        shape = choose_image_shape(data, source)

        def rows() -> Iterator[Any]:
            return (rows for rows, _ in read(data, shape).unlabelled.batches(ROWS_AT_ONCE))

        return Fitted(build(model, shape, len(source.classes), rows), None, ())
    assert model.path is not None
    network = (
        load_file(Path(model.path), model)
        if ":/" not in model.path
        else load_model(tracker.uri, model.path, model)
    )
    notes: tuple[str, ...] = ()
    plain = without_recorded_training(network)
    if plain is not network:
        network = plain
        notes = ("parts that were called with training=False follow the stages' settings instead",)
    network = with_pixels(network, model.input_range)
    if model.patch is not None:
        network = apply_patch(network, model.patch)
        notes = (*notes, f"the network is that of the file with the patch {model.patch}")
    shape = image_shape_for(data, source, network)
    fitted = fit_to_data(network, shape, len(source.classes), always_new_head=model.head == "new")
    converted, precise = with_precision(fitted.network, model.precision)
    return replace(fitted, network=converted, notes=(*notes, *fitted.notes, *precise))


def _network_of(
    settings: Settings,
    tracker: Tracker,
    earlier: dict[str, StoredStage],
    stages: list[str],
    target: Description,
) -> Fitted:
    order = stage_order(settings)
    before = [name for name in order[: order.index(stages[0])] if name in earlier and earlier[name].model_uri]
    uri = earlier[before[-1]].model_uri
    assert uri is not None  # require_stages has seen to it
    network = load_model(tracker.uri, uri, settings.model)
    if network.output_shape[-1] != len(target.classes):
        raise StageError(
            f"from_run={settings.from_run}: the network of stage {before[-1]} tells {network.output_shape[-1]} classes "
            f"apart, {target.name} has {len(target.classes)}; start with stage baseline, which gives it a new head"
        )
    return Fitted(network, None, (f"goes on from stage {before[-1]} of run {settings.from_run}",))


def _with_head_for(network: keras.Model, splits: Splits) -> Fitted:
    return fit_to_data(network, splits.image_shape, len(splits.classes))


def _baseline_training(settings: Settings, fitted: Fitted) -> StageSettings:
    how = settings.baseline
    if how.train != [AUTO]:
        return how
    if settings.model.kind != "file":
        return replace(how, train=[ALL])
    # A trained network as it is; only a head that knows nothing yet needs to learn.
    if fitted.new_head:
        return replace(how, train=[HEAD])
    return replace(how, train=[HEAD], epochs=0, steps=None)
