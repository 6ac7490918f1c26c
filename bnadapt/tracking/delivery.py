"""What a store did not take when it was recorded, delivered later."""

from pathlib import Path

from bnadapt.config import TrackingSettings
from bnadapt.errors import TrackingError
from bnadapt.secrets import redacted
from bnadapt.tracking.environment import holds_a_store, resolve_uri, sqlite_path
from bnadapt.tracking.leftovers import UNSENT, Delivery, take_up
from bnadapt.tracking.store import connected


def deliver(settings: TrackingSettings, working_directory: Path) -> list[Delivery]:
    """Send what waits below a working directory to the store that the settings name.

    Runs whose processes were gone before they had ended are marked as killed. What the store refuses is set aside in
    the run's folder, and the rest goes on.

    Args:
        settings: Their ``uri`` names the store; runs of other stores stay where they are.
        working_directory: Where the runs were started.

    Returns:
        What became of each run that had something left, those aside that are still being recorded.

    Raises:
        TrackingError: the store does not answer.
    """
    uri = resolve_uri(settings.uri, working_directory)
    file = sqlite_path(uri)
    if file is not None and not holds_a_store(file):
        raise TrackingError(
            f"tracking.uri={redacted(settings.uri)}: there is no such store. Name the one that the runs were "
            "recorded in: bnadapt deliver tracking.uri=URI"
        )
    return take_up(connected(uri), working_directory.absolute() / UNSENT)
