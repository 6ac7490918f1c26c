"""A store that goes away in the middle: training goes on, and nothing is lost."""

import json
import logging
import os
import shlex
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from bnadapt import interruption
from bnadapt.config import TrackingSettings
from bnadapt.evaluation.results import Scores, StageResult
from bnadapt.interruption import heed_signals
from bnadapt.tracking.delivery import deliver
from bnadapt.tracking.models import load_model
from bnadapt.tracking.outbox import Outbox, short_cause
from bnadapt.tracking.queue import Queue, opened
from bnadapt.tracking.sending import point
from bnadapt.tracking.store import Tracker

SCORES = Scores(0.75, 0.5, 0.7, 0.1, np.array([0.75]), np.array([True]), np.array([0]))


def network(units: int = 2) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])


def remote(uri: str, directory: Path) -> Tracker:
    return Tracker(TrackingSettings(uri=uri, experiment="remote", system_metrics=False), directory)


def left(directory: Path) -> list[Path]:
    return list((directory / "bnadapt-unsent").glob("*/*"))


@pytest.mark.fault(
    "store: MLflow server gone in the middle and back",
    "training goes on; all metrics, files and models arrive once, with the time they happened at",
)
def test_a_server_that_goes_away_and_comes_back(
    server: Any, tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture, points: Callable
) -> None:
    with remote(server.address, tmp_path).pipeline("remote", parameters={"data": "usps"}) as run:
        with run.stage("adapt", order=3) as stage:
            stage.log_epoch(1, {"val_accuracy": 0.1})
            server.stop()
            with caplog.at_level(logging.WARNING, logger="bnadapt"):
                started = time.monotonic()
                for number in (2, 3, 4):
                    stage.log_epoch(number, {"val_accuracy": number / 10})
                stage.log_text("notes/moved.txt", "gamma")
                stage.log_parameters({"rate": 0.1})
                stage.set_tags({"word": "here"})
                waiting = stage.log_model(network())
                stage.log_result(StageResult("adapt", 8, 4, 1.0, validation=SCORES))
        assert waiting is not None
        assert load_model(tracker.uri, waiting).count_params() == 8
        run.log_dataset("held out", "f01", "validation")
        with run.stage("finetune", order=4, parameters={"epochs": 2}) as later:
            assert (later.run_id, later.model_id) == ("4_finetune", None)
            later.log_epoch(1, {"val_accuracy": 0.5})
            later.log_model(network(3), np.zeros((1, 3)))
            later.log_result(StageResult("finetune", 8, 4, 1.0, validation=SCORES))
            later.log_test(SCORES)
        assert later.register("remote", "champion") is None
        run.log_best("4_finetune", StageResult("finetune", 8, 4, 1.0, validation=SCORES, test=SCORES))
        assert time.monotonic() - started < 5
        time.sleep(0.5)
        server.start()

    warnings = [record for record in caplog.records if record.name == "bnadapt.tracking.outbox"]
    assert len(warnings) == 1
    assert str(tmp_path / "bnadapt-unsent") in warnings[0].getMessage()
    assert list(tmp_path.iterdir()) == []

    client = tracker.client
    assert points(client, stage.run_id)["val_accuracy"] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (5, 0.75)]
    first, second, parent = (client.get_run(each.run_id) for each in (stage, later, run))
    assert {each.info.status for each in (first, second, parent)} == {"FINISHED"}
    assert (first.data.params["rate"], first.data.tags["word"]) == ("0.1", "here")
    assert (second.data.params["data"], second.data.params["epochs"]) == ("usps", "2")
    assert second.data.tags["mlflow.parentRunId"] == run.run_id
    # It says when things happened, not when they arrived.
    assert first.info.end_time <= second.info.start_time <= second.info.end_time <= parent.info.end_time - 500
    assert [each.dataset.name for each in second.inputs.dataset_inputs] == ["held out"]
    assert parent.data.tags["best_stage"] == "4_finetune"
    assert [each.model_id for each in parent.outputs.model_outputs] == [later.model_id]
    assert [each.model_id for each in second.outputs.model_outputs] == [later.model_id]
    files = MlflowClient(server.address)
    moved = files.download_artifacts(stage.run_id, "notes/moved.txt", str(tmp_path))
    assert Path(moved).read_text() == "gamma"

    model = client.get_logged_model(later.model_id)
    assert model.status == "READY"
    linked = {(each.key, each.dataset_name) for each in model.metrics}
    assert linked >= {("val_accuracy", "held out"), ("test_accuracy", "held out")}
    assert load_model(server.address, later.model_uri).output_shape == (None, 3)
    description = Model.load(f"models:/{later.model_id}")
    assert (description.run_id, description.model_id) == (later.run_id, later.model_id)
    version = client.get_model_version_by_alias("remote", "champion")
    assert (version.run_id, parent.data.tags["registered"]) == (later.run_id, "remote v1")


@pytest.mark.fault(
    "store: MLflow server gone for good, back after the run",
    "one printed command delivers all of it later, once",
)
def test_what_has_not_arrived_at_the_end_is_delivered_by_the_command_that_is_printed(
    server: Any, tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture, points: Callable
) -> None:
    uri = server.address.replace("//", "//somebody:hunter22@")
    with caplog.at_level(logging.WARNING, logger="bnadapt"):
        with remote(uri, tmp_path).pipeline("late", command=f"bnadapt tracking.uri={uri}") as run:
            server.stop()
            with run.stage("adapt", order=3) as stage:
                stage.log_epoch(1, {"val_accuracy": 0.1})
                stage.log_text("uri.txt", uri)
                stage.log_model(network())
        assert stage.run_id == "3_adapt"
    last = caplog.records[-1].getMessage()
    redacted = server.address.replace("//", "//somebody:***@")
    assert f"of run {run.run_id} have not arrived" in last
    assert last.endswith(f"cd {tmp_path} && bnadapt deliver {shlex.quote(f'tracking.uri={redacted}')}")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if b"hunter22" in path.read_bytes()]
    assert "hunter22" not in caplog.text

    server.start()
    delivered = deliver(TrackingSettings(uri=uri), tmp_path)
    assert [(each.run_id, each.left, each.refused, each.cut_off, each.reason) for each in delivered] == [
        (run.run_id, 0, 0, False, "")
    ]
    assert str(delivered[0]) == f"run {run.run_id}: {delivered[0].delivered} delivered"
    assert list(tmp_path.iterdir()) == []
    assert deliver(TrackingSettings(uri=uri), tmp_path) == []
    children = tracker.client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.run_id}'")
    assert [(each.info.run_name, each.info.status) for each in children] == [("3_adapt", "FINISHED")]
    assert points(tracker.client, children[0].info.run_id) == {"val_accuracy": [(1, 0.1)]}
    assert len(children[0].outputs.model_outputs) == 1
    assert tracker.client.get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.fault(
    "store: Ctrl-C while the MLflow server hangs",
    "ends within 8 seconds; the rest is delivered later, the run is marked as killed",
)
def test_a_run_that_is_stopped_ends_in_seconds_where_the_server_never_answers(
    server: Any, tracker: Tracker, tmp_path: Path
) -> None:
    def stop() -> None:
        with (
            remote(server.address, tmp_path).pipeline("stopped") as run,
            run.stage("adapt", order=3) as stage,
        ):
            runs.append(run)
            stage.log_model(network())
            server.signal(signal.SIGSTOP)
            started.append(time.monotonic())
            raise KeyboardInterrupt

    runs: list = []
    started: list[float] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            stop()
        assert time.monotonic() - started[0] < 8
    finally:
        server.signal(signal.SIGCONT)
    assert [each.left for each in deliver(TrackingSettings(uri=server.address), tmp_path)] == [0]
    assert tracker.client.get_run(runs[0].run_id).info.status == "KILLED"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def heeding() -> Iterator[None]:
    """Signals as the command heeds them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before, hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
    heed_signals(143)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        for requests in (interruption._requested, interruption._held_back, interruption._lost):
            requests.clear()


@pytest.mark.usefixtures("heeding")
def test_an_interrupt_while_the_server_is_waited_for_ends_in_seconds(
    server: Any, tracker: Tracker, tmp_path: Path, points: Callable
) -> None:
    def wait() -> None:
        with remote(server.address, tmp_path).pipeline("waits") as run:
            runs.append(run)
            server.signal(signal.SIGSTOP)
            interrupt.start()
            started.append(time.monotonic())
            run.log_metrics({"loss": 0.5})
            time.sleep(60)

    runs: list = []
    started: list[float] = []
    interrupt = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            wait()
        assert time.monotonic() - started[0] < 12
    finally:
        interrupt.cancel()
        server.signal(signal.SIGCONT)
    assert [each.left for each in deliver(TrackingSettings(uri=server.address), tmp_path)] == [0]
    assert tracker.client.get_run(runs[0].run_id).info.status == "KILLED"
    assert points(tracker.client, runs[0].run_id) == {"loss": [(0, 0.5)]}


@pytest.mark.fault(
    "store: SQLite locked by another process",
    "training is not held up; every value arrives once",
)
def test_a_database_that_another_process_holds_is_waited_for_later(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bnadapt.tracking.outbox.SECONDS_FOR_AN_ANSWER", 0.2)
    local = Tracker(TrackingSettings(uri=tracker.uri, system_metrics=False), tmp_path)
    with local.pipeline("held") as run:
        with closing(sqlite3.connect(tracker.uri.removeprefix("sqlite:///"))) as other:
            other.execute("BEGIN EXCLUSIVE")
            started = time.monotonic()
            for step in range(50):
                run.log_metrics({"loss": step}, step=step)
            assert time.monotonic() - started < 3
        assert "database is locked" in caplog.text
        assert left(tmp_path)
    history = tracker.client.get_metric_history(run.run_id, "loss")
    assert sorted(each.step for each in history) == list(range(50))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(
    "store: the place of the files gone",
    "numbers go on being recorded; the files arrive when it is back",
)
def test_a_store_of_files_that_is_away_does_not_hold_up_numbers(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts = Path(tracker.uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    local = Tracker(TrackingSettings(uri=tracker.uri, system_metrics=False), tmp_path)
    with local.pipeline("no files") as run:
        place = Path(tracker.client.get_run(run.run_id).info.artifact_uri)
        for path in (place, artifacts):
            assert path.is_dir()
        place.rename(place.with_name("aside"))
        place.touch()  # a file where a folder should be
        run.log_text("note.txt", "here")
        run.log_metrics({"loss": 0.5})
        assert tracker.client.get_run(run.run_id).data.metrics == {"loss": 0.5}
        assert "does not take files at the moment" in caplog.text
        place.unlink()
    assert (place / "note.txt").read_text() == "here"
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_mlflow_finds_invalid_is_a_defect_and_raises(tracker: Tracker, tmp_path: Path) -> None:
    with tracker.pipeline("invalid") as run, opened(tmp_path / run.run_id, run.experiment_id) as queue:
        outbox = Outbox(tracker.client, queue)
        with pytest.raises(MlflowException, match="Invalid value"):
            outbox.put("metrics", run.run_id, metrics=[point("a(b)", 1.0, 0, 0), point("fine", 1.0, 0, 0)])
        assert tracker.client.get_run(run.run_id).data.metrics == {"fine": 1.0}
        assert outbox.put("metrics", run.run_id, metrics=[point("later", 1.0, 0, 0)])


@pytest.mark.fault(
    "store: an invalid value among what waits",
    "set aside and named; everything else is delivered",
)
def test_an_invalid_value_among_what_waits_is_set_aside_and_named(
    tracker: Tracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tracker.pipeline("waits") as run:
        pass
    folder = tmp_path / "bnadapt-unsent" / run.run_id
    with opened(folder, run.experiment_id) as queue:
        queue.add("metrics", run.run_id, {"metrics": [point("one", 1.0, 0, 0), point("a(b)", 2.0, 0, 0)]})
        queue.add("metrics", run.run_id, {"metrics": [point("two", 1.0, 0, 0)]})
        queue.add("describe", "never made", {"tags": {"a": "b"}})
    with caplog.at_level(logging.WARNING, logger="bnadapt"):
        found = deliver(TrackingSettings(uri=tracker.uri), tmp_path)
    assert [(each.delivered, each.left, each.refused, each.cut_off) for each in found] == [(3, 0, 2, False)]
    refused = folder / "refused.jsonl"
    assert f"2 refused by the store, kept in {refused}" in str(found[0])
    assert f"kept in {refused}: Invalid value" in caplog.text
    records = [json.loads(line) for line in refused.read_text().splitlines()]
    assert [record["content"] for record in records] == [
        {"metrics": [point("a(b)", 2.0, 0, 0)]},
        {"tags": {"a": "b"}},
    ]
    assert "the store did not take never made" in records[1]["reason"]
    assert list(folder.iterdir()) == [refused]
    assert tracker.client.get_run(run.run_id).data.metrics == {"one": 1.0, "two": 1.0}
    assert [each.delivered for each in deliver(TrackingSettings(uri=tracker.uri), tmp_path)] == [0]


@pytest.mark.fault(
    "store: a run deleted by somebody meanwhile",
    "the pipeline goes on; what the store refused is kept in a file",
)
def test_a_run_that_somebody_deletes_stops_nothing(tracker: Tracker, tmp_path: Path) -> None:
    local = Tracker(TrackingSettings(uri=tracker.uri, system_metrics=False), tmp_path)
    with local.pipeline("deleted") as run:
        with run.stage("adapt", order=3) as stage:
            tracker.client.delete_run(stage.run_id)
            stage.log_epoch(1, {"val_accuracy": 0.5})
        run.log_metrics({"loss": 0.5})
    assert tracker.client.get_run(run.run_id).info.status == "FINISHED"
    assert [path.name for path in left(tmp_path)] == ["refused.jsonl"]


def test_what_waits_costs_little_for_each_call(tmp_path: Path) -> None:
    with opened(tmp_path / "run", "1") as queue:
        metrics = {"metrics": [point(f"key {number}", 0.5, 1, 1) for number in range(10)]}
        started = time.perf_counter()
        for _ in range(500):
            queue.done(queue.add("metrics", "run", metrics))
        assert (time.perf_counter() - started) / 500 < 0.002
        assert Queue(queue.folder).pending == {}


@pytest.mark.fault(
    "disk: full while MLflow's queue is written",
    "a warning; everything is sent all the same",
)
def test_a_full_disk_does_not_stop_what_can_still_be_sent(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    local = Tracker(TrackingSettings(uri=tracker.uri, system_metrics=False), tmp_path)
    with local.pipeline("full") as run:
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="bnadapt"):
            patch.setattr("os.write", lambda descriptor, line: len(line) // 2)
            run.log_metrics({"loss": 0.5})
        assert "journal.jsonl cannot be written: the disk is full" in caplog.text
        run.log_metrics({"loss": 0.25}, step=1)
    history = tracker.client.get_metric_history(run.run_id, "loss")
    assert sorted((each.step, each.value) for each in history) == [(0, 0.5), (1, 0.25)]
    assert list(tmp_path.iterdir()) == []


def test_the_innermost_cause_is_told() -> None:
    error = RuntimeError("outer")
    error.__cause__ = OSError("disk full\n  really at http://me:hunter22@host/x")
    assert short_cause(error) == "disk full really at http://me:***@host/x"
    assert short_cause(KeyError()) == "KeyError"
    assert len(short_cause(ValueError("x" * 999))) == 200
