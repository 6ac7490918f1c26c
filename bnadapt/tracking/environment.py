"""What must be settled before MLflow is imported; standard library only."""

import os
from pathlib import Path

from bnadapt.errors import TrackingError

LOCAL_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"
_STORES = ("http", "https", "databricks", "postgresql", "mysql", "mssql")


def prepare_environment(telemetry: bool) -> None:
    """Set MLflow's environment variables: telemetry as asked, short waits for a server, quiet start.

    Variables that the user has set stay as they are, except the one that switches telemetry, which
    follows ``telemetry``. MLflow's own defaults would wait four minutes for a server that is not there.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "false" if telemetry else "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def resolve_uri(uri: str, working_directory: Path) -> str:
    """The tracking URI, that of a SQLite file made absolute below ``working_directory``.

    Raises:
        TrackingError: for a directory (MLflow no longer writes into one), a database in memory, and a
            path that a database URI cannot hold.
    """
    if uri.startswith(_SQLITE):
        return _absolute_sqlite(uri, working_directory)
    if uri == "databricks" or uri.partition("://")[0].partition("+")[0] in _STORES:
        return uri
    raise TrackingError(
        f"tracking.uri={uri}: MLflow records in a database or on a server, not in a directory. "
        f"Use tracking.uri={LOCAL_URI} or the address of a server, such as tracking.uri=http://127.0.0.1:5000"
    )


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI that :func:`resolve_uri` returned; None for any other store."""
    return Path(uri.removeprefix(_SQLITE).split("?")[0]) if uri.startswith(_SQLITE) else None


def _absolute_sqlite(uri: str, working_directory: Path) -> str:
    file, question_mark, options = uri.removeprefix(_SQLITE).partition("?")
    if not file or file.startswith(":memory:"):
        raise TrackingError(
            f"tracking.uri={uri}: a database in memory is lost at the end of the run. "
            f"Name a file: tracking.uri={LOCAL_URI}"
        )
    path = (working_directory.absolute() / Path(file).expanduser()).as_posix()
    if "%" in path or "?" in path:
        raise TrackingError(
            f"tracking.uri={uri} means the file {path}, and a database URI cannot hold % and ?. "
            "Name a file elsewhere, such as tracking.uri=sqlite:////tmp/mlflow.db"
        )
    return f"{_SQLITE}{path}{question_mark}{options}"
