"""What earlier runs left in the store, so that a pipeline can go on from them."""

import math
from dataclasses import dataclass, fields

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from bnadapt.errors import TrackingError
from bnadapt.evaluation.results import Epoch
from bnadapt.interruption import stops_held_back
from bnadapt.secrets import redacted
from bnadapt.tracking import names
from bnadapt.tracking.outbox import short_cause
from bnadapt.tracking.store import Tracker

RUNS_LISTED = 5


@dataclass(frozen=True)
class StoredStage:
    """A finished stage of an earlier run.

    Attributes:
        name: The stage's name, as in a schedule.
        run_id: MLflow's id of the stage's run.
        model_uri: What :func:`bnadapt.tracking.models.load_model` reads its network from; None where
            networks were not kept.
        metrics: The newest value of every metric.
        history: Its epochs, without the state before training; what was not recorded is NaN.
        steps: Optimizer steps taken.
        trainable: Number of trainable parameters (scalars).
        seconds: Wall time.
        kept_epoch: Number of the epoch whose weights were kept.
    """

    name: str
    run_id: str
    model_uri: str | None
    metrics: dict[str, float]
    history: list[Epoch]
    steps: int
    trainable: int
    seconds: float
    kept_epoch: int


@stops_held_back()
def stages_of(tracker: Tracker, run_id: str) -> dict[str, StoredStage]:
    """The finished stages of a run and of the runs that it went on from, by stage name, in order.

    Where several runs of that chain had a stage, the nearest one counts. A stage's own run may be named
    as well as its pipeline's.

    Raises:
        TrackingError: where the store has no such run; its latest runs are listed.
    """
    stages: dict[str, tuple[str, StoredStage]] = {}
    seen: set[str] = set()
    following: str | None = run_id
    while following and following not in seen:
        seen.add(following)
        pipeline = _pipeline(tracker, following)
        for run in _children(tracker, pipeline):
            label = run.data.tags[names.STAGE]
            stages.setdefault(names.stage_name(label), (label, _stored(tracker, run)))
        following = pipeline.data.tags.get(names.FROM_RUN)
    ordered = sorted(stages.items(), key=lambda item: names.stage_place(item[1][0]))
    return {name: stored for name, (_, stored) in ordered}


@stops_held_back()
def parameters_of(tracker: Tracker, run_id: str) -> dict[str, str]:
    """The parameters of a pipeline's run, named by its own id or by that of one of its stages.

    Raises:
        TrackingError: as :func:`stages_of`.
    """
    return dict(_pipeline(tracker, run_id).data.params)


def _pipeline(tracker: Tracker, run_id: str) -> Run:
    try:
        run = tracker.client.get_run(run_id)
        parent = run.data.tags.get(names.PARENT)
        return run if parent is None else tracker.client.get_run(parent)
    except MlflowException as error:
        raise TrackingError(
            f"from_run={run_id}: no such run in {redacted(tracker.uri)} ({short_cause(error)}). {_latest_runs(tracker)}"
        ) from error


def _children(tracker: Tracker, pipeline: Run) -> list[Run]:
    """Newest first, so that of a stage that was run twice the later one counts."""
    condition = f"tags.`{names.PARENT}` = '{pipeline.info.run_id}' and attributes.status = 'FINISHED'"
    runs = tracker.client.search_runs(
        [pipeline.info.experiment_id], condition, max_results=1000, order_by=["attributes.start_time DESC"]
    )
    return [run for run in runs if names.STAGE in run.data.tags]


def _stored(tracker: Tracker, run: Run) -> StoredStage:
    metrics = dict(run.data.metrics)
    models = run.outputs.model_outputs if run.outputs else []
    return StoredStage(
        name=names.stage_name(run.data.tags[names.STAGE]),
        run_id=run.info.run_id,
        model_uri=f"models:/{models[-1].model_id}" if models else None,
        metrics=metrics,
        history=_epochs(tracker, run),
        steps=int(metrics.get(names.STEPS, 0)),
        trainable=int(metrics.get(names.TRAINABLE, 0)),
        seconds=metrics.get(names.SECONDS, math.nan),
        kept_epoch=int(metrics.get(names.KEPT_EPOCH, 0)),
    )


def _epochs(tracker: Tracker, run: Run) -> list[Epoch]:
    keys = [each.name for each in fields(Epoch) if each.name != "number"]
    values: dict[int, dict[str, float]] = {}
    for key in keys:
        if key not in run.data.metrics:
            continue
        recorded = tracker.client.get_metric_history(run.info.run_id, key)
        for metric in sorted(recorded, key=lambda each: each.timestamp):
            # Runs of the past have two values at the last step: the epoch's, and then that of the stage's result.
            values.setdefault(metric.step, {}).setdefault(key, metric.value)
    # Step 0 is the state before training; after the last epoch there stand the scores of what was kept.
    return [
        Epoch(number=number, **{key: found.get(key, math.nan) for key in keys})
        for number, found in sorted(values.items())
        if number > 0 and not found.keys().isdisjoint(names.OF_TRAINING)
    ]


def _latest_runs(tracker: Tracker) -> str:
    runs = tracker.client.search_runs(
        [tracker.experiment_id], max_results=100, order_by=["attributes.start_time DESC"]
    )
    pipelines = [run for run in runs if names.PARENT not in run.data.tags][:RUNS_LISTED]
    if not pipelines:
        return "Its experiment has no runs yet: leave from_run out"
    listed = "".join(f"\n  {run.info.run_id}  {run.info.run_name}" for run in pipelines)
    return f"The latest runs of the experiment are:{listed}"
