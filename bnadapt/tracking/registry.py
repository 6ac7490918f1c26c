"""Networks in MLflow's registry: versions under a name, and an alias that points to one of them."""

import json

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException

VERSIONS = "mlflow.modelVersions"  # where MLflow's list of models reads which of them are registered
VERSION_OF = "version of {model} as {name}"  # the handle of a version


def register(
    client: MlflowClient, model_id: str, name: str, alias: str | None = None, *, again: bool = False
) -> int:
    """Make a recorded network the next version of a registered model, and let an alias point to it.

    Nothing is copied. The model is made where there is none of that name.

    Args:
        client: Of the store that holds the network.
        model_id: MLflow's id of the network.
        name: Of the registered model; :func:`bnadapt.checks.registry_mistakes` says which ones MLflow takes.
        alias: Such as ``champion``; it is taken from the version that had it.
        again: Whether an earlier call may have made the version without a word; it is looked for then.

    Returns:
        The version's number.
    """
    model = client.get_logged_model(model_id)
    version = (_version_of(client, model, name) if again else None) or _next_version(client, model, name)
    if alias is not None:
        client.set_registered_model_alias(name, alias, str(version))
    entry = {"name": name, "version": version}
    listed = json.loads(model.tags.get(VERSIONS, "[]"))
    if entry not in listed:
        client.set_logged_model_tags(model_id, {VERSIONS: json.dumps([*listed, entry])})
    return version


def _version_of(client: MlflowClient, model: LoggedModel, name: str) -> int | None:
    found = client.search_model_versions(f"run_id = '{model.source_run_id}'")
    place = model.artifact_location
    versions = [int(each.version) for each in found if (each.name, each.source) == (name, place)]
    return max(versions, default=None)


def _next_version(client: MlflowClient, model: LoggedModel, name: str) -> int:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    created = client.create_model_version(
        name,
        model.artifact_location,  # MLflow would look for a models:/ID in the store that the environment names
        run_id=model.source_run_id,
        model_id=model.model_id,
        await_creation_for=None,  # type: ignore[arg-type]  # MLflow documents None for: do not wait
    )
    return int(created.version)
