"""Whether the server of a database lets us in, found out in seconds; MLflow alone would try for two minutes."""

import socket
from urllib.parse import urlsplit

_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def require_answer(uri: str, seconds: float) -> None:
    """Raise where nobody answers at the address of a database; return for every other store.

    Args:
        uri: Of the store.
        seconds: To wait at most.

    Raises:
        OSError: nobody answers.
    """
    if not _is_server(uri):
        return
    parts = urlsplit(uri)
    try:
        host, port = parts.hostname, parts.port or _PORTS[_kind(uri)]
    except ValueError:
        return  # its driver says better what is wrong with it
    if host is not None:
        socket.create_connection((host, port), timeout=seconds).close()


def require_entry(uri: str) -> None:
    """Raise where a database that answers does not let us in; return for every other store.

    Raises:
        Exception: of whatever type the driver has for it: the password is wrong, there is no such database.
    """
    if _is_server(uri):
        # Not at the top: it takes long, and no other store needs it.
        from mlflow.store.db.utils import create_sqlalchemy_engine

        engine = create_sqlalchemy_engine(uri)
        engine.connect().close()
        engine.dispose()


def _is_server(uri: str) -> bool:
    return _kind(uri) in _PORTS


def _kind(uri: str) -> str:
    return uri.partition("://")[0].partition("+")[0]
