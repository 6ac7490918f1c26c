"""bnadapt adapts Keras networks to new data sets through batch normalization.

The functions below work on any Keras model, without the command line, Hydra, MLflow or TensorFlow
Datasets. They are imported when first used, so that ``import bnadapt`` alone does not start TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnadapt.normalization.policy import BATCH_NORM as BATCH_NORM
    from bnadapt.normalization.policy import train_only as train_only
    from bnadapt.normalization.statistics import calibrate as calibrate
    from bnadapt.normalization.statistics import reestimate as reestimate
    from bnadapt.surgery.head import replace_head as replace_head
    from bnadapt.surgery.insert import insert_batch_norm as insert_batch_norm
    from bnadapt.surgery.sites import find_sites as find_sites

_HOMES = {
    "find_sites": "bnadapt.surgery.sites",
    "insert_batch_norm": "bnadapt.surgery.insert",
    "replace_head": "bnadapt.surgery.head",
    "calibrate": "bnadapt.normalization.statistics",
    "reestimate": "bnadapt.normalization.statistics",
    "train_only": "bnadapt.normalization.policy",
    "BATCH_NORM": "bnadapt.normalization.policy",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bnadapt' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
