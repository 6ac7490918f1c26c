"""bnadapt adapts Keras networks to new data sets through batch normalization.

The functions below work on any Keras model, without the command line, Hydra, MLflow or TensorFlow
Datasets. They are imported when first used, so that ``import bnadapt`` alone does not start TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnadapt.normalization.patch import apply_patch as apply_patch
    from bnadapt.normalization.patch import save_patch as save_patch
    from bnadapt.normalization.policy import BATCH_NORM as BATCH_NORM
    from bnadapt.normalization.policy import train_only as train_only
    from bnadapt.normalization.problems import find_policy_problems as find_policy_problems
    from bnadapt.normalization.snapshot import restore as restore
    from bnadapt.normalization.statistics import calibrate as calibrate
    from bnadapt.normalization.statistics import reestimate as reestimate
    from bnadapt.normalization.switches import switch_batch_norm as switch_batch_norm
    from bnadapt.normalization.table import describe_policy as describe_policy
    from bnadapt.normalization.table import policy_table as policy_table
    from bnadapt.normalization.test_time import TestTimeAdaptation as TestTimeAdaptation
    from bnadapt.surgery.fold import find_folds as find_folds
    from bnadapt.surgery.fold import fold_batch_norm as fold_batch_norm
    from bnadapt.surgery.head import replace_head as replace_head
    from bnadapt.surgery.insert import insert_batch_norm as insert_batch_norm
    from bnadapt.surgery.sites import find_sites as find_sites

_HOMES = {
    "find_sites": "bnadapt.surgery.sites",
    "insert_batch_norm": "bnadapt.surgery.insert",
    "replace_head": "bnadapt.surgery.head",
    "find_folds": "bnadapt.surgery.fold",
    "fold_batch_norm": "bnadapt.surgery.fold",
    "calibrate": "bnadapt.normalization.statistics",
    "reestimate": "bnadapt.normalization.statistics",
    "restore": "bnadapt.normalization.snapshot",
    "TestTimeAdaptation": "bnadapt.normalization.test_time",
    "train_only": "bnadapt.normalization.policy",
    "BATCH_NORM": "bnadapt.normalization.policy",
    "switch_batch_norm": "bnadapt.normalization.switches",
    "describe_policy": "bnadapt.normalization.table",
    "policy_table": "bnadapt.normalization.table",
    "find_policy_problems": "bnadapt.normalization.problems",
    "save_patch": "bnadapt.normalization.patch",
    "apply_patch": "bnadapt.normalization.patch",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bnadapt' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
