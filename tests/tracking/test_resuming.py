"""Runs that were cut off: marked, gone on with, and every step of every metric once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pytest

from bnadapt.config import TrackingSettings
from bnadapt.errors import StorageError, TrackingError
from bnadapt.evaluation.results import Epoch, Scores, StageResult
from bnadapt.tracking.delivery import deliver
from bnadapt.tracking.history import stages_of
from bnadapt.tracking.queue import opened
from bnadapt.tracking.runs import PipelineRun, StageRun
from bnadapt.tracking.store import Tracker


def scores(accuracy: float) -> Scores:
    nothing = np.zeros(0)
    return Scores(accuracy, 1 - accuracy, accuracy, accuracy / 4, nothing, nothing, nothing)


def network(units: int = 2) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])


def local(tracker: Tracker, directory: Path, system_metrics: bool = False) -> Tracker:
    return Tracker(TrackingSettings(uri=tracker.uri, system_metrics=system_metrics), directory)


def result(name: str, accuracy: float) -> StageResult:
    return StageResult(name, 8, 20, 1.5, validation=scores(accuracy), test=scores(accuracy), kept_epoch=1)


def train(stage: StageRun, epochs: Sequence[int]) -> None:
    stage.log_epoch(0, {"val_accuracy": 0.1, "val_loss": 0.9})
    for number in epochs:
        stage.log_look(Epoch(number, 0.5, 1.0, number / 10, 1.0, 1e-3, 0.1))


@pytest.mark.fault(
    "store: a run interrupted and gone on with",
    "the same runs go on; each step of each metric once",
)
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(
    tracker: Tracker, tmp_path: Path, points: Callable
) -> None:
    def interrupted() -> None:
        with store.pipeline("first", parameters={"data": "usps"}, config_yaml="seed: 0\n") as run:
            runs.append(run)
            run.log_dataset("held out", "f01", "validation")
            with run.stage("baseline", order=1) as baseline:
                train(baseline, (1, 2))
                baseline.log_model(network())
                baseline.log_result(result("baseline", 0.5))
            with run.stage("adapt", order=3, parameters={"epochs": 3}) as adapt:
                train(adapt, (1, 2))
                runs.append(adapt)
                raise ValueError("no such layer")

    store = local(tracker, tmp_path)
    runs: list = []
    with pytest.raises(ValueError, match="no such layer"):
        interrupted()
    before = tracker.client.get_run(runs[0].run_id)
    assert before.info.status == "FAILED"

    with store.pipeline("again", parameters={"data": "usps"}, resume=before.info.run_id) as run:
        assert tracker.client.get_run(run.run_id).info.status == "RUNNING"
        run.log_dataset("held out", "f01", "validation")
        baseline = run.ended_stage("baseline", order=1)
        assert tracker.client.get_run(baseline.run_id).info.status == "FINISHED"
        with run.stage("adapt", order=3, parameters={"epochs": 3}) as adapt:
            assert adapt.run_id == runs[1].run_id
            assert tracker.client.get_run(adapt.run_id).info.status == "RUNNING"
            train(adapt, (2, 3))  # the second epoch is done again from its checkpoint
            adapt.log_result(result("adapt", 0.4))
            adapt.log_model(network(3))
        with run.stage("evaluate", order=6):
            for stage in (baseline, adapt):
                stage.log_test(scores(0.5))
            run.log_best("1_baseline", result("baseline", 0.5))

    client = tracker.client
    parent, child = client.get_run(run.run_id), client.get_run(adapt.run_id)
    assert run.run_id == before.info.run_id
    for each in (parent, child):
        assert each.info.status == "FINISHED"
        assert "error" not in each.data.tags
        text = Path(client.download_artifacts(each.info.run_id, "error.txt")).read_text()
        assert text.startswith("The run goes on since 20")
    assert (parent.info.run_name, parent.data.params) == ("first", {"data": "usps"})
    assert len(stages_of(tracker, run.run_id)) == 3

    curve = points(client, adapt.run_id)
    assert curve["val_accuracy"] == [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert [step for step, _ in curve["loss"]] == [1, 2, 3]
    # The adapted stage is worse than the baseline, of which this process knows from the store alone.
    assert points(client, run.run_id)["val_accuracy"] == [(1, 0.5), (7, 0.5)]
    assert points(client, run.run_id)["test/1_baseline"] == [(0, 0.5)]
    assert parent.outputs.model_outputs[0].model_id == baseline.model_id
    for stage, step in ((baseline, 3), (adapt, 4)):
        points(client, stage.run_id)
        linked = {(each.key, each.step): each for each in client.get_logged_model(stage.model_id).metrics}
        assert linked["val_accuracy", step].dataset_name == "held out"
        assert linked["test_accuracy", 0].value == 0.5
    assert [len(stages_of(tracker, run.run_id)[name].history) for name in ("baseline", "adapt")] == [2, 3]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(
    "store: stopped after a stage had ended, and before the store knew",
    "the stage's run counts as finished when the pipeline goes on, without an error of its own",
)
@pytest.mark.parametrize("interrupted", [True, False], ids=["interrupted", "killed"])
def test_a_stage_that_ended_without_the_stores_knowledge_is_finished(
    interrupted: bool, tracker: Tracker, tmp_path: Path
) -> None:
    store = local(tracker, tmp_path)

    def stopped() -> None:
        with store.pipeline("first") as run, run.stage("baseline", order=1) as baseline:
            train(baseline, (1, 2))
            ids.extend((run.run_id, baseline.run_id))
            raise KeyboardInterrupt

    ids: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        stopped()
    pipeline, stage = ids
    if not interrupted:  # what a process that was killed leaves
        for each in ids:
            tracker.client.update_run(each, status="RUNNING")
            tracker.client.delete_tag(each, "error")
    with store.pipeline("again", resume=pipeline) as run:
        assert run.ended_stage("baseline", order=1).run_id == stage
    ended = tracker.client.get_run(stage)
    assert ended.info.status == "FINISHED"
    assert "error" not in ended.data.tags
    last = max(metric.timestamp for metric in tracker.client.get_metric_history(stage, "val_loss"))
    assert ended.info.end_time == last


@pytest.mark.fault(
    "store: interrupted just after a stage was recorded",
    "recording all of it again changes nothing",
)
def test_what_ended_just_before_the_interruption_is_not_recorded_twice(
    tracker: Tracker, tmp_path: Path, points: Callable
) -> None:
    """Whatever a stage does at its end, and however much of it was recorded, doing all of it again changes nothing."""
    store = local(tracker, tmp_path)

    def work(run: PipelineRun) -> StageRun:
        with run.stage("adapt", order=3) as stage:
            train(stage, (1, 2))
            stage.log_model(network())
            stage.log_result(result("adapt", 0.4))
            stage.log_test(scores(0.5))
            run.log_best("3_adapt", result("adapt", 0.4))
            run.register(str(stage.model_uri), "once", "champion")
        return stage

    with pytest.raises(KeyboardInterrupt), store.pipeline("one") as run:  # noqa: PT012
        first = work(run)
        raise KeyboardInterrupt
    parent, child = (points(tracker.client, each.run_id) for each in (run, first))
    with store.pipeline("one", resume=first.run_id) as again:  # a stage's id will do
        second = work(again)
    assert (again.run_id, second.run_id, second.model_id) == (run.run_id, first.run_id, first.model_id)
    assert points(tracker.client, run.run_id) == parent
    assert points(tracker.client, first.run_id) == child
    for each in (run, first):
        assert len(tracker.client.get_run(each.run_id).outputs.model_outputs) == 1
    assert int(tracker.client.get_model_version_by_alias("once", "champion").version) == 1
    assert list(tmp_path.iterdir()) == [], "something was refused"


def test_each_key_has_one_value_at_a_step_however_it_is_recorded(tracker: Tracker, points: Callable) -> None:
    with tracker.pipeline("once") as run:
        run.log_dataset("held out", "f01", "validation")
        with run.stage("insert", order=2) as insert:
            insert.log_result(result("insert", 0.3))
            insert.log_model(network())
        with run.stage("adapt", order=3) as adapt:
            train(adapt, (1, 2))
            adapt.log_metrics({"val_accuracy": 0.25}, step=2)  # a second value gets a step of its own
            adapt.log_metrics({"found_learning_rate": 0.1})
            adapt.log_metrics({"found_learning_rate": 0.2})
            adapt.log_result(result("adapt", 0.4))
            adapt.log_model(network())
            adapt.log_test(scores(0.5))
        run.log_best("3_adapt", result("adapt", 0.4))
    assert points(tracker.client, insert.run_id)["val_accuracy"] == [(0, 0.3)]
    found = points(tracker.client, adapt.run_id)
    assert found["val_accuracy"] == [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.25), (4, 0.4)]
    assert found["found_learning_rate"] == [(0, 0.1), (1, 0.2)]
    assert points(tracker.client, run.run_id)["val_accuracy"] == [(2, 0.3), (3, 0.4), (4, 0.4)]
    for stage in (insert, adapt):
        linked = tracker.client.get_logged_model(stage.model_id).metrics
        assert [each.key for each in linked].count("val_accuracy") == 1


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from bnadapt.tracking.environment import prepare_environment
prepare_environment(telemetry=False)
from bnadapt.config import TrackingSettings
from bnadapt.tracking.store import Tracker
tracker = Tracker(TrackingSettings(uri={uri!r}, system_metrics=False), Path({directory!r}))
with tracker.pipeline("killed", tags={{"kept": "yes"}}) as run:
    with run.stage("adapt", order=3) as stage:
        stage.log_epoch(1, {{"val_accuracy": 0.1, "loss": 1.0}})
        print(run.run_id, stage.run_id, flush=True)
        sys.stdin.readline()  # until somebody holds the store
        stage.log_epoch(2, {{"val_accuracy": 0.2, "loss": 1.0}})
        stage.log_text("note.txt", "here")
        with run.stage("finetune", order=4) as later:
            later.log_epoch(1, {{"val_accuracy": 0.3, "loss": 1.0}})
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault(
    "store: away, and the process killed with SIGKILL meanwhile",
    "what waited is delivered by the next command; the run is marked as killed and goes on, each step once",
)
def test_a_process_that_is_killed_loses_nothing_and_is_noticed(
    tracker: Tracker, tmp_path: Path, points: Callable
) -> None:
    database = Path(tracker.uri.removeprefix("sqlite:///"))
    program = PROGRAM.format(uri=tracker.uri, directory=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    run_id, stage_id = process.stdout.readline().split()
    store = local(tracker, tmp_path)
    assert deliver(TrackingSettings(uri=tracker.uri), tmp_path) == [], "its process lives"
    database.rename(database.with_suffix(".aside"))  # the store is away
    process.communicate("go\n", timeout=60)
    database.with_suffix(".aside").rename(database)
    assert process.returncode == -signal.SIGKILL
    assert tracker.client.get_run(run_id).info.status == "RUNNING"

    killed = time.time()
    with store.pipeline("another") as other:
        pass
    assert other.cut_off == (run_id,)
    assert list(tmp_path.iterdir()) == []
    children = tracker.client.search_runs([other.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    statuses = {each.info.run_name: each.info.status for each in children}
    assert statuses == {"3_adapt": "KILLED", "4_finetune": "KILLED"}
    ended = tracker.client.get_run(run_id).info
    assert (ended.status, ended.end_time < killed * 1000) == ("KILLED", True)
    assert points(tracker.client, stage_id)["val_accuracy"] == [(1, 0.1), (2, 0.2)]

    with store.pipeline("killed", resume=run_id) as run:
        assert run.cut_off == ()
        with run.stage("adapt", order=3) as stage:
            train(stage, (2, 3))
        with run.stage("finetune", order=4) as later:
            train(later, (1,))
    assert [step for step, _ in points(tracker.client, stage_id)["loss"]] == [1, 2, 3]
    assert points(tracker.client, later.run_id)["loss"] == [(1, 1.0)]
    assert Path(tracker.client.download_artifacts(stage_id, "note.txt")).read_text() == "here"
    children = tracker.client.search_runs([other.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert [each.info.status for each in children] == ["FINISHED", "FINISHED"]


def test_use_of_the_machine_goes_on_at_later_steps(
    tracker: Tracker, tmp_path: Path, points: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnadapt.tracking.system.SHORTEST", 0.05)
    store = local(tracker, tmp_path, system_metrics=True)
    with pytest.raises(KeyboardInterrupt), store.pipeline("measured") as run:  # noqa: PT012
        time.sleep(0.2)
        raise KeyboardInterrupt
    key = "system/cpu_utilization_percentage"
    before = len(points(tracker.client, run.run_id)[key])
    with store.pipeline("measured", resume=run.run_id):
        time.sleep(0.2)
    steps = [step for step, _ in points(tracker.client, run.run_id)[key]]
    assert len(steps) > before
    assert steps == list(range(len(steps)))


@pytest.mark.fault(
    "store: going on with a run that is missing, deleted or in progress",
    "refused, with the reason and the remedy",
)
def test_what_cannot_be_gone_on_with_is_told(tracker: Tracker, tmp_path: Path) -> None:
    store = local(tracker, tmp_path)
    with pytest.raises(TrackingError, match=r"resume=0123: the tracking store .* has no such run"):
        store.pipeline("none", resume="0123").__enter__()
    with store.pipeline("lives") as run:
        with pytest.raises(TrackingError, match=f"resume={run.run_id}: another process is going on with"):
            store.pipeline("lives", resume=run.run_id).__enter__()
        with pytest.raises(TrackingError, match="no run 3_adapt below it to go on from; those it has: none"):
            run.ended_stage("adapt", order=3)
    assert store.has_run(run.run_id)
    tracker.client.delete_run(run.run_id)
    assert not store.has_run(run.run_id)
    assert not store.has_run("0" * 32)
    with pytest.raises(
        TrackingError, match=f"deleted in .* Restore it: mlflow runs restore --run-id {run.run_id}"
    ):
        store.pipeline("lives", resume=run.run_id).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_no_business_of_this_store_stay(tracker: Tracker, tmp_path: Path) -> None:
    unsent = tmp_path / "bnadapt-unsent"
    foreign = unsent / ("f" * 32)
    with opened(foreign, "1") as queue:
        queue.add("describe", foreign.name, {"tags": {"a": "b"}})
    (unsent / "empty").mkdir()
    os.utime(unsent / "empty", (0, 0))
    (unsent / "begins").mkdir()
    (unsent / "note.txt").write_text("mine")
    found = deliver(TrackingSettings(uri=tracker.uri), tmp_path)
    assert [(each.run_id, each.delivered, each.left) for each in found] == [(foreign.name, 0, 1)]
    assert "this store does not have the run" in str(found[0])
    assert sorted(path.name for path in unsent.iterdir()) == ["begins", foreign.name, "note.txt"]
    with pytest.raises(TrackingError, match="there is no such store"):
        deliver(TrackingSettings(), tmp_path)


def test_a_directory_that_cannot_be_written_is_told_before_anything_starts(
    tracker: Tracker, tmp_path: Path
) -> None:
    (tmp_path / "bnadapt-unsent").touch()
    with pytest.raises(StorageError, match="bnadapt-unsent cannot be written: Not a directory"):
        local(tracker, tmp_path).pipeline("nowhere").__enter__()
    found = tracker.client.search_runs([tracker.experiment_id], "attributes.run_name = 'nowhere'")
    assert list(found) == []


def test_a_run_that_was_started_and_not_yet_described_is_described_when_it_goes_on(tracker: Tracker) -> None:
    begun: list[PipelineRun] = []

    def killed_right_after_the_start_of_a_stage() -> None:
        with tracker.pipeline("early", parameters={"data": "digits"}) as run:
            begun.append(run)
            run._open("1_baseline", {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed_right_after_the_start_of_a_stage()
    with (
        tracker.pipeline("early", parameters={"data": "digits"}, resume=begun[0].run_id) as again,
        again.stage("baseline", order=1, parameters={"epochs": 3}) as stage,
    ):
        run_id = stage.run_id
    assert tracker.client.get_run(run_id).data.params == {
        "data": "digits",
        "epochs": "3",
        "stage": "1_baseline",
    }
