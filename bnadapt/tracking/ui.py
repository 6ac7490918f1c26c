"""How a person opens MLflow's pages for a store."""

import os
import socket
import sys
from urllib.parse import quote

from bnadapt.tracking.environment import sqlite_path
from bnadapt.tracking.names import PARENT

HOST = "127.0.0.1"
DEFAULT_PORT = 5000
PORTS_TRIED = 20


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


def ui_command(uri: str, *, port: int = DEFAULT_PORT, telemetry: bool = False) -> list[str] | None:
    """The command, as a list of words, that serves the pages of a database on this machine alone.

    None for a store that is a server already. Without telemetry the command sets the environment
    variable itself, because MLflow reports the start of its server (not on Windows, which has no ``env``).
    """
    if not _is_database(uri):
        return None
    quiet = [] if telemetry or os.name == "nt" else ["env", "MLFLOW_DISABLE_TELEMETRY=true"]
    serve = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    return [*quiet, *serve, "--host", HOST, "--port", str(port), "--workers", "1"]


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
