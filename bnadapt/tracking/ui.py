"""How a person opens MLflow's pages for a store."""

import re
import socket
import sys
from collections.abc import Mapping
from urllib.parse import quote

from bnadapt.secrets import redacted
from bnadapt.tracking.environment import sqlite_path
from bnadapt.tracking.names import PARENT

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
PORTS_TRIED = 20
_OPENS_THE_SERVER = re.compile(
    r"UVICORN_|GUNICORN_|FORWARDED_ALLOW_IPS$|MLFLOW_(HOST$|SERVER_|UVICORN_|GUNICORN_|WAITRESS_|ENV_FILE)"
)


def free_port() -> int:
    """The first port from 5000 on that nothing on this machine listens at; 5000 where all are taken."""
    for port in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, port))
            except OSError:
                continue
            return port
    return DEFAULT_PORT


def ui_command(uri: str, *, port: int = DEFAULT_PORT) -> list[str] | None:
    """The command, as a list of words, that serves the pages of a database on this machine alone.

    It belongs with the variables of :func:`ui_environment`. None for a store that is a server already.
    """
    if not _is_database(uri):
        return None
    store = ["--backend-store-uri", uri] if redacted(uri) == uri else []
    serve = [sys.executable, "-m", "mlflow", "ui", *store]
    return [*serve, "--host", HOST, "--port", str(port), "--workers", "1"]


def ui_environment(uri: str, variables: Mapping[str, str], *, telemetry: bool = False) -> dict[str, str]:
    """The environment variables to serve the pages with: those given, without what would serve them to others.

    MLflow, uvicorn and gunicorn take addresses, sockets and programs from variables as well, beside and before their
    command's words, and MLflow can be told to answer any host. The store's URI is among the variables: where it holds
    a password it is not among the command's words, which every user of a machine can see.
    """
    kept = {name: value for name, value in variables.items() if not _OPENS_THE_SERVER.match(name.upper())}
    return {
        **kept,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": str(not telemetry).lower(),
        # Seven more processes, for language models alone, which outlive a server that is killed.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def ui_url(uri: str, experiment_id: str, *, port: int = DEFAULT_PORT, below: str | None = None) -> str:
    """The address of :func:`charts_page` on the server of a store, or on this machine's at the port."""
    server = f"http://{HOST}:{port}" if _is_database(uri) else uri.rstrip("/")
    return f"{server}/{charts_page(experiment_id, below=below)}"


def charts_page(experiment_id: str, *, below: str | None = None) -> str:
    """The page of an experiment with its runs and charts side by side, from the number sign on.

    Without the question mark's part a first visitor gets the pages for language models, with no metrics. With
    ``below``, the id of a pipeline's or comparison's run, the page has the curves of that one's stages or arms,
    the best first: where they are sorted by anything but their age, MLflow does not hide them in their parent.
    """
    page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"
    if below is None:
        return page
    condition = quote(f"tags.`{PARENT}` = '{below}'")
    return f"{page}&searchFilter={condition}&orderByKey={quote('metrics.`val_accuracy`')}&orderByAsc=false"


def _is_database(uri: str) -> bool:
    return sqlite_path(uri) is not None or not uri.startswith(("http://", "https://", "databricks"))
