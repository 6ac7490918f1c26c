"""Going on from earlier runs."""

import contextlib
from pathlib import Path

import keras
import numpy as np
import pytest

from bnadapt.config import TrackingSettings
from bnadapt.errors import TrackingError
from bnadapt.evaluation.results import Epoch, Scores, StageResult
from bnadapt.tracking.history import stages_of
from bnadapt.tracking.models import load_model
from bnadapt.tracking.store import Tracker

SCORES = Scores(0.75, 0.5, 0.7, 0.1, np.array([0.75]), np.array([True]), np.array([0]))


def network(units: int) -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])


def test_a_stage_is_restored_as_it_was(tracker: Tracker) -> None:
    epochs = [
        Epoch(1, accuracy=0.5, loss=1.0, val_accuracy=0.4, val_loss=1.25, learning_rate=1e-3, seconds=2.0),
        Epoch(2, accuracy=0.75, loss=0.5, val_accuracy=0.5, val_loss=0.75, learning_rate=5e-4, seconds=1.0),
    ]
    with tracker.pipeline("first") as run, run.stage("adapt", order=3) as stage:
        stage.log_epoch(0, {"val_accuracy": 0.1, "val_loss": 2.5})
        for epoch in epochs:
            values = {name: getattr(epoch, name) for name in vars(epoch) if name != "number"}
            stage.log_epoch(epoch.number, values)
        uri = stage.log_model(network(2))
        stage.log_result(
            StageResult("adapt", trainable=8, steps=40, seconds=3.5, validation=SCORES, kept_epoch=1)
        )
    stored = stages_of(tracker, run.run_id)["adapt"]
    assert stored.history == epochs
    assert (stored.name, stored.run_id, stored.model_uri) == ("adapt", stage.run_id, uri)
    assert (stored.trainable, stored.steps, stored.seconds, stored.kept_epoch) == (8, 40, 3.5, 1)
    assert stored.metrics["val_accuracy"] == 0.75


def test_the_chain_of_runs_is_followed_and_the_nearest_wins(tracker: Tracker) -> None:
    with tracker.pipeline("one") as first:
        with first.stage("baseline", order=1) as baseline:
            baseline.log_model(network(2))
        with first.stage("insert", order=2) as old_insert:
            old_insert.log_model(network(3))
    with tracker.pipeline("two", tags={"from_run": first.run_id}) as second:
        with second.stage("insert", order=2) as insert:
            insert.log_model(network(4))
        with contextlib.suppress(ValueError), second.stage("adapt", order=3) as failed:
            failed.log_model(network(5))
            raise ValueError("failed")
    with tracker.pipeline("three", tags={"from_run": second.run_id}) as third:
        pass

    stages = stages_of(tracker, third.run_id)
    assert [(name, stage.run_id) for name, stage in stages.items()] == [
        ("baseline", baseline.run_id),
        ("insert", insert.run_id),
    ]
    uri = stages["insert"].model_uri
    assert uri is not None
    assert load_model(tracker.uri, uri).output_shape == (None, 4)
    assert stages_of(tracker, old_insert.run_id).keys() == {"baseline", "insert"}
    assert stages_of(tracker, first.run_id)["insert"].run_id == old_insert.run_id


def test_a_stage_without_a_network_says_so(tracker: Tracker) -> None:
    with tracker.pipeline("bare") as run, run.stage("baseline", order=1):
        pass
    stored = stages_of(tracker, run.run_id)["baseline"]
    assert (stored.model_uri, stored.history, stored.steps) == (None, [], 0)


def test_ten_stages_keep_their_order(tracker: Tracker) -> None:
    with tracker.pipeline("long") as run:
        for order in (10, 9, 2):
            with run.stage(f"stage{order}", order=order):
                pass
    assert list(stages_of(tracker, run.run_id)) == ["stage2", "stage9", "stage10"]


@pytest.mark.parametrize("unknown", ["0123456789abcdef0123456789abcdef", "no such/run"])
def test_an_unknown_run_is_named_with_those_there_are(tracker: Tracker, unknown: str) -> None:
    with tracker.pipeline("the latest one") as run:
        pass
    with pytest.raises(TrackingError) as caught:
        stages_of(tracker, unknown)
    message = str(caught.value)
    assert f"from_run={unknown}: no such run in {tracker.uri}" in message
    assert f"{run.run_id}  the latest one" in message


def test_an_experiment_without_runs_says_so(tracker: Tracker) -> None:
    empty = Tracker(TrackingSettings(uri=tracker.uri, experiment="empty"), Path("/"))
    with pytest.raises(TrackingError, match="has no runs yet: leave from_run out"):
        stages_of(empty, "0123456789abcdef0123456789abcdef")
