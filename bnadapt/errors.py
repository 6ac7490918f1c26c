"""What can go wrong, one class per kind; every message says what was received and what would work.

The command line prints these messages without a traceback. Anything else that is raised is a defect.
"""


class BnadaptError(Exception):
    """A mistake that the user can mend; its message is complete without a traceback."""


class SettingsError(BnadaptError):
    """A setting is missing, of the wrong type, out of range, or contradicts another one."""


class DataError(BnadaptError):
    """A data set is missing, unreadable, or does not fit what was asked of it."""


class ModelError(BnadaptError):
    """A network cannot be loaded, or does not fit the data."""


class SurgeryError(BnadaptError, ValueError):
    """A network cannot be rewritten, or a selection of its layers matches nothing."""


class FrozenWeightMovedError(BnadaptError):
    """A training stage changed a variable that it had declared frozen."""


class NothingMovedError(BnadaptError):
    """A training stage changed not one of the variables that it had declared to change."""


class StageError(BnadaptError):
    """A stage needs the result of another one that is not there."""


class TrackingError(BnadaptError):
    """The tracking server or store cannot be used, or does not hold what was asked for."""


class StorageError(BnadaptError):
    """A file cannot be written: the disk is full, or the place may not be written to."""
