"""What earlier processes of a run have recorded, so that another one can go on without recording it again."""

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Run
from mlflow.exceptions import MlflowException

from bnadapt.errors import TrackingError
from bnadapt.secrets import redacted
from bnadapt.tracking import names
from bnadapt.tracking.outbox import short_cause
from bnadapt.tracking.points import Points
from bnadapt.tracking.sending import children, models_of


@dataclass(frozen=True)
class Earlier:
    """What the store has of a run.

    Attributes:
        run_id: MLflow's id of it.
        parameters: Its parameters.
        points: Its metrics.
        models: MLflow's ids of its networks by handle, those first that came first; whole ones only.
        failed: Whether it says that an error ended it.
        finished: Whether it ended as it should.
    """

    run_id: str
    parameters: Mapping[str, str]
    points: Points
    models: Mapping[str, str]
    failed: bool
    finished: bool


def pipeline_to_resume(client: MlflowClient, run_id: str) -> Run:
    """The run at the top level with this id, or above the run with this id.

    Raises:
        TrackingError: there is no such run, or it was deleted.
    """
    try:
        run = client.get_run(run_id)
        parent = run.data.tags.get(names.PARENT)
        run = run if parent is None else client.get_run(parent)
    except MlflowException as error:
        raise TrackingError(
            f"resume={run_id}: the tracking store {redacted(client.tracking_uri)} has no such run "
            f"({short_cause(error)}). resume=true finds the one that was cut off; or name its store: tracking.uri=URI"
        ) from error
    if run.info.lifecycle_stage != "active":
        raise TrackingError(
            f"resume={run_id}: this run was deleted in {redacted(client.tracking_uri)}. Restore it: "
            f"mlflow runs restore --run-id {run.info.run_id}; or begin anew without resume"
        )
    return run


def earlier_runs(client: MlflowClient, pipeline: Run) -> dict[str, Earlier]:
    """What the store has of a run at the top level and of those below it, by handle; that of the former is its id."""
    below = children(client, pipeline.info.experiment_id, pipeline.info.run_id)
    runs = {pipeline.info.run_id: pipeline}
    runs |= {run.data.tags[names.HANDLE]: run for run in below if names.HANDLE in run.data.tags}
    return {handle: _earlier(client, run) for handle, run in runs.items()}


def _earlier(client: MlflowClient, run: Run) -> Earlier:
    points: dict[tuple[str, int], tuple[float, int]] = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            points[key, metric.step] = (metric.value, metric.timestamp)
    models = models_of(client, run.info.experiment_id, run.info.run_id)
    return Earlier(
        run_id=run.info.run_id,
        parameters=run.data.params,
        points=points,
        models={
            model.tags[names.HANDLE]: model.model_id
            for model in models
            if names.HANDLE in model.tags and model.status == LoggedModelStatus.READY
        },
        failed=names.ERROR in run.data.tags,
        finished=run.info.status == "FINISHED",
    )
