"""Keras networks in MLflow: saved so that MLflow alone, without bnadapt, can load and serve them."""

import tempfile
from importlib.metadata import version
from pathlib import Path

import keras
import mlflow
import mlflow.artifacts
import mlflow.keras
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from bnadapt.config import ModelSettings
from bnadapt.errors import TrackingError
from bnadapt.interruption import stops_held_back
from bnadapt.models.load import load_file
from bnadapt.tracking.outbox import short_cause

NETWORK = "data/model.keras"  # where MLflow's Keras flavour keeps it


def save_model(
    model: keras.Model, directory: Path, description: Model, sample_images: np.ndarray | None = None
) -> None:
    """Write an MLflow model directory that ``mlflow.keras`` and ``mlflow.pyfunc`` load.

    The signature is read off the network and the requirements are given, so nothing is run and no
    environment is searched: that makes the difference between 0.1 and 45 seconds. The first of the sample
    images, as the network takes them, becomes MLflow's input example.
    """
    directory.mkdir(parents=True)  # MLflow writes the example first, and fails where there is no directory
    example = None if sample_images is None else np.asarray(sample_images[:1], model.inputs[0].dtype)
    mlflow.keras.save_model(
        model,
        str(directory),
        mlflow_model=description,
        signature=signature(model),
        input_example=example,
        pip_requirements=[f"{name}=={version(name)}" for name in ("tensorflow", "keras", "numpy")],
    )


def signature(model: keras.Model) -> ModelSignature:
    """Shapes and types of the network's input and output, -1 where a size is free."""
    return ModelSignature(_schema(model.inputs), _schema(model.outputs))


def load_model(tracking_uri: str, model_uri: str, trusting: ModelSettings | None = None) -> keras.Model:
    """Read a network from ``models:/ID``, ``runs:/...`` or a directory that :func:`save_model` wrote.

    The file is fetched, looked over and loaded as any other; MLflow's own loader would unpickle what a model holds
    beside its network. Points MLflow, in this process, at the store: such URIs are resolved in no other way.

    Args:
        tracking_uri: Of the store.
        model_uri: Of the model in it.
        trusting: What the user trusts, as :func:`bnadapt.models.load.load_file` takes it.

    Raises:
        TrackingError: where there is no such model, or it is not one of Keras.
        ModelError: where its network is damaged, would load or run something, or needs code that is not there.
    """
    with tempfile.TemporaryDirectory() as directory:
        try:
            mlflow.set_tracking_uri(tracking_uri)
            with stops_held_back():
                fetched = Path(
                    mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=directory)
                )
        except Exception as error:
            # Stores and download clients raise their own types.
            raise TrackingError(
                f"no network could be loaded from {model_uri} in {tracking_uri}: {short_cause(error)}"
            ) from error
        file = fetched if fetched.is_file() else fetched / NETWORK
        if not file.is_file():
            raise TrackingError(
                f"no network could be loaded from {model_uri} in {tracking_uri}: it holds no {NETWORK}, so it is no "
                "model that mlflow.keras.log_model wrote in Keras 3"
            )
        return load_file(file, trusting, name=model_uri)


def _schema(tensors: list[keras.KerasTensor]) -> Schema:
    return Schema(
        [TensorSpec(np.dtype(each.dtype), [-1 if n is None else n for n in each.shape]) for each in tensors]
    )
