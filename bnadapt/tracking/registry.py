"""Networks in MLflow's registry: versions under a name, and an alias that points to one of them."""

import json
import logging

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from bnadapt.tracking.outbox import short_cause

VERSIONS = "mlflow.modelVersions"  # where MLflow's list of models reads which of them are registered

_log = logging.getLogger(__name__)


def register(client: MlflowClient, model_uri: str, name: str, alias: str | None = None) -> int | None:
    """Make a recorded network the next version of a registered model, and let an alias point to it.

    Nothing is copied. The model is made where there is none of that name. A store that does not take it does not
    raise, because the network is kept wherever it lies: a warning says how to register it later.

    Args:
        client: Of the store that holds the network.
        model_uri: ``models:/ID``, as :meth:`bnadapt.tracking.runs.StageRun.log_model` returns it.
        name: Of the registered model; :func:`bnadapt.checks.registry_mistakes` says which ones MLflow takes.
        alias: Such as ``champion``; it is taken from the version that had it.

    Returns:
        The version's number; None where nothing was registered.
    """
    if not model_uri.startswith("models:/"):
        _log.warning("%s is not registered: the tracking store did not take the network %s", name, model_uri)
        return None
    try:
        version = _next_version(client, model_uri, name)
        if alias is not None:
            client.set_registered_model_alias(name, alias, str(version))
    except Exception as error:
        # Registries are servers of their own and raise what their clients raise.
        _log.warning(
            "%s is not registered as %s%s: %s. The network is kept; to register it later: "
            "mlflow.register_model(%r, %r)",
            model_uri,
            name,
            f"@{alias}" if alias else "",
            short_cause(error),
            model_uri,
            name,
        )
        return None
    return version


def _next_version(client: MlflowClient, model_uri: str, name: str) -> int:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"):
            raise
    model = client.get_logged_model(model_uri.removeprefix("models:/"))
    created = client.create_model_version(
        name,
        model.artifact_location,  # MLflow would look for a models:/ID in the store that the environment names
        run_id=model.source_run_id,
        model_id=model.model_id,
        await_creation_for=None,  # type: ignore[arg-type]  # MLflow documents None for: do not wait
    )
    entry = {"name": name, "version": created.version}
    listed = json.loads(model.tags.get(VERSIONS, "[]"))
    if entry not in listed:
        client.set_logged_model_tags(model.model_id, {VERSIONS: json.dumps([*listed, entry])})
    return int(created.version)
