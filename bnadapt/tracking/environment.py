"""What must be settled before MLflow is imported, without any library below."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnadapt.errors import TrackingError
from bnadapt.secrets import redacted

LOCAL_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"
_STORES = ("http", "https", "databricks", "postgresql", "mysql", "mssql")
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"


def prepare_environment(telemetry: bool) -> None:
    """Set environment variables of MLflow and databases: telemetry as asked, short waits for a server, quiet start.

    Variables that the user has set stay as they are, except the one that switches telemetry, which
    follows ``telemetry``. MLflow's own defaults would wait four minutes for a server that is not there.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "false" if telemetry else "true"
    os.environ.setdefault(_RETRIES, "2")
    os.environ.setdefault(_TIMEOUT, "30")
    os.environ.setdefault("PGCONNECT_TIMEOUT", "5")  # PostgreSQL's own library would wait for ever
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow would print the server's address with every run that ends, and the password in it.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


@contextmanager
def patience(seconds: int | None, *, retries: int = 0) -> Iterator[None]:
    """Let MLflow, while the block lasts, wait at most so long for each answer of a server, and ask again so often.

    None waits as long as the environment says. What the environment said is put back at the end.
    """
    said = os.environ.get(_TIMEOUT)
    limits = {_RETRIES: str(retries)}
    if seconds is not None:
        limits[_TIMEOUT] = str(min(seconds, int(said)) if said else seconds)
    before = {key: os.environ.get(key) for key in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


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
        f"tracking.uri={redacted(uri)}: MLflow records in a database or on a server, not in a directory. "
        f"Use tracking.uri={LOCAL_URI} or the address of a server, such as tracking.uri=http://127.0.0.1:5000"
    )


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI that :func:`resolve_uri` returned; None for any other store."""
    return Path(uri.removeprefix(_SQLITE).split("?")[0]) if uri.startswith(_SQLITE) else None


def holds_a_store(file: Path) -> bool:
    """Whether a SQLite file is there and holds something: a process killed before it made the store leaves it empty."""
    return file.is_file() and file.stat().st_size > 0


def sqlite_uri(file: Path) -> str:
    """The URI of a SQLite file with an absolute path."""
    return f"{_SQLITE}{file.as_posix()}"


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
