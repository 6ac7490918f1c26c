"""Registered networks: versions, aliases, names that MLflow takes, and a registry that is gone."""

import logging
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)

from bnadapt.checks import registry_mistakes
from bnadapt.config import Settings, TrackingSettings
from bnadapt.tracking.models import load_model
from bnadapt.tracking.registry import register
from bnadapt.tracking.store import Tracker


def network(value: float) -> keras.Model:
    return keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(value))]
    )


def test_versions_follow_each_other_and_the_alias_moves(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # where a client without a store of its own would make one
    mlflow.set_tracking_uri(None)
    with tracker.pipeline("registered") as run:
        with run.stage("adapt", order=3) as stage:
            stage.log_model(network(1.0))
            assert stage.register("digits", "champion") == 1
        with run.arm("bn_only") as arm:
            uri = arm.log_model(network(2.0))
        assert run.register(uri, "digits", "champion") == 2
        assert run.register(uri, "digits") == 3
        assert run.register(uri, "other") == 1
    assert list(tmp_path.iterdir()) == []

    champion = tracker.client.get_model_version_by_alias("digits", "champion")
    assert (int(champion.version), champion.run_id) == (2, arm.run_id)
    assert tracker.client.get_run(run.run_id).data.tags["registered"] == "other v1"
    logged = tracker.client.get_logged_model(uri.removeprefix("models:/"))
    assert logged.tags["mlflow.modelVersions"] == (
        '[{"name": "digits", "version": 2}, {"name": "digits", "version": 3}, {"name": "other", "version": 1}]'
    )
    images = np.ones((1, 3), np.float32)
    for place, value in (("digits@champion", 6.0), ("digits/1", 3.0)):
        loaded = load_model(tracker.uri, f"models:/{place}")
        np.testing.assert_allclose(loaded.predict(images, verbose=0), [[value]])


def test_a_network_that_the_store_did_not_take_is_not_registered(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="bnadapt"), tracker.pipeline("elsewhere") as run:
        assert run.register("/somewhere/model", "digits") is None
    assert (
        "/somewhere/model is not registered as digits: the store did not take /somewhere/model" in caplog.text
    )


def test_a_version_that_was_made_without_a_word_is_found_again(tracker: Tracker) -> None:
    with tracker.pipeline("twice") as run:
        with run.arm("bn_only") as arm:
            arm.log_model(network(1.0))
        first = register(tracker.client, arm.model_id, "found")
        assert register(tracker.client, arm.model_id, "found", again=True) == first
        assert register(tracker.client, arm.model_id, "found") == first + 1


def test_a_registry_that_does_not_take_it_costs_nothing_but_a_warning(
    tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="bnadapt"), tracker.pipeline("refused") as run:
        assert run.register("models:/m-nothing", "digits", "champion") is None
    assert "models:/m-nothing is not registered as digits@champion: " in caplog.text
    assert "mlflow.register_model('models:/m-nothing', 'digits')" in caplog.text
    stored = tracker.client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert "registered" not in stored.data.tags


def mistakes(**tracking: object) -> list[str]:
    return registry_mistakes(Settings(tracking=TrackingSettings(**tracking)))  # type: ignore[arg-type]


def taken(check: object, value: str) -> bool:
    try:
        check(value)  # type: ignore[operator]
    except MlflowException:
        return False
    return True


@given(st.text(max_size=20) | st.sampled_from([".", "..", "a/b", "a:b", " ", "digits v1", "x" * 257]))
def test_no_name_passes_that_mlflow_refuses(name: str) -> None:
    fits = taken(_validate_model_name, name) and len(name) <= 256
    assert (mistakes(register_as=name) == []) == fits


@given(
    st.text(max_size=20)
    | st.from_regex(r"[\w\-]{1,10}\n?", fullmatch=True)
    | st.sampled_from(["latest", "Latest", "v1", "V22", "v1x", "champion", "a-b_c", "", "x" * 256])
)
def test_no_alias_passes_that_mlflow_refuses(alias: str) -> None:
    fits = taken(_validate_model_alias_name, alias) and taken(_validate_model_alias_name_reserved, alias)
    if not alias.endswith("\n"):  # which MLflow's own expression lets through
        assert (mistakes(register_as="digits", alias=alias) == []) == fits


def test_mistakes_are_told_with_their_remedy() -> None:
    assert mistakes() == []
    assert mistakes(alias="champion") == [
        "tracking.alias=champion needs a registered model to belong to: tracking.register_as=NAME"
    ]
    assert mistakes(register_as="a/b") == [
        "tracking.register_as=a/b: a model's name has at most 256 characters, and no / and no :"
    ]
    assert mistakes(register_as="a", log_models=False) == [
        "tracking.register_as=a needs the networks in MLflow: tracking.log_models=true"
    ]
    assert registry_mistakes(
        Settings(tracking=TrackingSettings(register_as="a"), stages=["baseline", "insert"])
    ) == [
        "tracking.register_as=a registers the network that evaluate keeps, and stages=['baseline', 'insert'] "
        "leaves it out"
    ]
