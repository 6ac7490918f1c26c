"""bnadapt adapts Keras networks to new data sets through batch normalization.

The functions below work on any Keras model, without the command line, Hydra, MLflow or TensorFlow
Datasets. They are imported when first used, so that ``import bnadapt`` alone does not start TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnadapt.normalization.patch import apply_patch as apply_patch
    from bnadapt.normalization.patch import save_patch as save_patch
    from bnadapt.normalization.policy import ALL as ALL
    from bnadapt.normalization.policy import BATCH_NORM as BATCH_NORM
    from bnadapt.normalization.policy import BIASES as BIASES
    from bnadapt.normalization.policy import HEAD as HEAD
    from bnadapt.normalization.policy import train_only as train_only
    from bnadapt.normalization.policy import without_weight_decay as without_weight_decay
    from bnadapt.normalization.problems import find_policy_problems as find_policy_problems
    from bnadapt.normalization.proof import assert_only_declared_moved as assert_only_declared_moved
    from bnadapt.normalization.proof import declared_to_move as declared_to_move
    from bnadapt.normalization.proof import fingerprint as fingerprint
    from bnadapt.normalization.snapshot import Snapshot as Snapshot
    from bnadapt.normalization.snapshot import restore as restore
    from bnadapt.normalization.statistics import calibrate as calibrate
    from bnadapt.normalization.statistics import reestimate as reestimate
    from bnadapt.normalization.switches import switch_batch_norm as switch_batch_norm
    from bnadapt.normalization.table import describe_policy as describe_policy
    from bnadapt.normalization.table import policy_table as policy_table
    from bnadapt.normalization.test_time import TestTimeAdaptation as TestTimeAdaptation
    from bnadapt.surgery.fold import find_folds as find_folds
    from bnadapt.surgery.fold import fold_batch_norm as fold_batch_norm
    from bnadapt.surgery.folds import Fold as Fold
    from bnadapt.surgery.folds import Folds as Folds
    from bnadapt.surgery.head import replace_head as replace_head
    from bnadapt.surgery.insert import insert_batch_norm as insert_batch_norm
    from bnadapt.surgery.sites import Site as Site
    from bnadapt.surgery.sites import Sites as Sites
    from bnadapt.surgery.sites import find_sites as find_sites
    from bnadapt.surgery.unnest import unnest as unnest

_NAMES_BY_MODULE = {
    "bnadapt.normalization.patch": (
        "apply_patch",
        "save_patch",
    ),
    "bnadapt.normalization.policy": (
        "ALL",
        "BATCH_NORM",
        "BIASES",
        "HEAD",
        "train_only",
        "without_weight_decay",
    ),
    "bnadapt.normalization.problems": ("find_policy_problems",),
    "bnadapt.normalization.proof": (
        "assert_only_declared_moved",
        "declared_to_move",
        "fingerprint",
    ),
    "bnadapt.normalization.snapshot": (
        "Snapshot",
        "restore",
    ),
    "bnadapt.normalization.statistics": (
        "calibrate",
        "reestimate",
    ),
    "bnadapt.normalization.switches": ("switch_batch_norm",),
    "bnadapt.normalization.table": (
        "describe_policy",
        "policy_table",
    ),
    "bnadapt.normalization.test_time": ("TestTimeAdaptation",),
    "bnadapt.surgery.fold": (
        "find_folds",
        "fold_batch_norm",
    ),
    "bnadapt.surgery.folds": (
        "Fold",
        "Folds",
    ),
    "bnadapt.surgery.head": ("replace_head",),
    "bnadapt.surgery.insert": ("insert_batch_norm",),
    "bnadapt.surgery.sites": (
        "Site",
        "Sites",
        "find_sites",
    ),
    "bnadapt.surgery.unnest": ("unnest",),
}
_HOMES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bnadapt' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
