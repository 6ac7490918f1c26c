"""Models in a store that somebody else wrote: MLflow's own loader would run what lies in them."""

import pickle
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from bnadapt.config import ModelSettings
from bnadapt.errors import ModelError, TrackingError
from bnadapt.tracking.models import NETWORK, load_model, save_model
from tests.models.hostile import network

IMAGES = np.ones((2, 8, 8, 1), "float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def recorded(store: str, directory: Path) -> str:
    """The URI of a directory with a model, sent to a run of the store as it is."""
    client = MlflowClient(store)
    experiment = client.create_experiment(
        str(directory), artifact_location=str(directory.parent / "artifacts")
    )
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(directory), "model")
    return f"runs:/{run}/model"


def test_a_network_of_a_run_is_loaded_and_nothing_stays_on_the_disk(tmp_path: Path, store: str) -> None:
    made = network()
    save_model(made, tmp_path / "made", Model())
    loaded = load_model(store, recorded(store, tmp_path / "made"))
    np.testing.assert_array_equal(loaded(IMAGES), made(IMAGES))


@pytest.mark.fault(
    "attack: a Lambda layer in a network of the store",
    "refused with the setting that would allow it; nothing runs",
)
def test_a_lambda_in_a_store_is_not_run(tmp_path: Path, store: str) -> None:
    save_model(network(), tmp_path / "made", Model())
    network(keras.layers.Lambda(lambda x: x * 2)).save(tmp_path / "made" / NETWORK)
    uri = recorded(store, tmp_path / "made")
    message = f"^{re.escape(uri)} cannot be loaded: it holds the Lambda layer .*model.allow_lambda=true"
    with pytest.raises(ModelError, match=message):
        load_model(store, uri)
    assert load_model(store, uri, ModelSettings(allow_lambda=True))(IMAGES).shape == (2, 72)


class Harm:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.marker,)  # type: ignore[return-value]


@pytest.mark.fault(
    "attack: pickles beside a network in the store",
    "the network loads, no pickle is read",
)
@pytest.mark.parametrize(
    "name", ["custom_objects.cloudpickle", "global_custom_objects.cloudpickle", "model.pkl"]
)
def test_pickles_beside_a_network_are_left_alone(name: str, tmp_path: Path, store: str) -> None:
    marker = tmp_path / "harm-was-done"
    save_model(network(), tmp_path / "made", Model())
    (tmp_path / "made" / "data" / name).write_bytes(pickle.dumps(Harm(marker)))
    assert load_model(store, recorded(store, tmp_path / "made")).count_params()
    assert not marker.exists()
    pickle.loads((tmp_path / "made" / "data" / name).read_bytes())
    assert marker.exists()  # and it would have done harm


def test_a_model_of_another_kind(tmp_path: Path, store: str) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.pkl").write_bytes(pickle.dumps(Harm(tmp_path / "harm-was-done")))
    uri = recorded(store, tmp_path / "made")
    with pytest.raises(
        TrackingError, match=f"from {uri} in .*: it holds no data/model.keras, so it is no model"
    ):
        load_model(store, uri)
    assert not (tmp_path / "harm-was-done").exists()


@pytest.mark.parametrize("uri", ["models:/no-such/1", "runs:/0123456789abcdef/model", "nonsense:/x"])
def test_a_model_that_is_not_there(uri: str, tmp_path: Path, store: str) -> None:
    with pytest.raises(TrackingError, match=f"no network could be loaded from {uri} in sqlite:///"):
        load_model(store, uri)


def test_code_is_only_run_where_the_user_names_it(tmp_path: Path, store: str) -> None:
    # MLflow can record Python files with a model, and puts them on the path of whoever loads it.
    save_model(network(), tmp_path / "made", Model())
    (tmp_path / "made" / "code").mkdir()
    (tmp_path / "made" / "code" / "keras_evil.py").write_text("raise SystemExit('harm')")
    (tmp_path / "made" / "MLmodel").write_text(
        "flavors:\n  keras: {data: data, code: code}\n  python_function: {loader_module: keras_evil, code: code}\n"
    )
    assert load_model(store, recorded(store, tmp_path / "made")).count_params()
