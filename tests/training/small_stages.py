"""A small network with batch normalization, and one call that trains a stage of it on digits."""

from typing import Any

import keras
from rich.console import Console

from bnadapt.config import ModelSettings, StageSettings
from bnadapt.data.splits import Splits
from bnadapt.models.build import build
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import find_sites
from bnadapt.training.fit import Trained, train_stage
from bnadapt.training.progress import Display


def plain_network(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    return build(ModelSettings(**{"widths": [24, 16], **settings}), (8, 8, 1), 10)


def network_with_batch_norm(**settings: Any) -> keras.Model:
    plain = plain_network(**settings)
    return insert_batch_norm(plain, find_sites(plain), momentum=0.9)


def train(network: keras.Model, splits: Splits, how: StageSettings, **changes: Any) -> Trained:
    arguments: dict[str, Any] = {
        "name": "adapt",
        "batch_size": 50,
        "evaluation_batch_size": 100,
        "samples": None,
        "from_logits": False,
        "seed": 3,
        "display": Display(Console(quiet=True), "none"),
        "on_epoch": lambda epoch: None,
    }
    return train_stage(network, splits, how, **{**arguments, **changes})
