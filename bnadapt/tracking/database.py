"""Whether a database on a server lets us in, found out by one attempt; MLflow alone would try for two minutes."""

_SERVERS = ("postgresql", "mysql", "mssql")


def require_database(uri: str) -> None:
    """Raise where the database of a store cannot be used; return for every store that is none, or is a file.

    Raises:
        Exception: of whatever type the driver has for it: nobody answers, the password is wrong, there is no such
            database; ModuleNotFoundError where the driver is missing.
    """
    if uri.partition("://")[0].partition("+")[0] not in _SERVERS:
        return
    # Not at the top: it takes long, and no other store needs it.
    from mlflow.store.db.utils import create_sqlalchemy_engine

    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()
