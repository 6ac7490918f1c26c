"""Settings of a search over a network that trains in no time."""

from typing import Any

import optuna

from bnadapt.config import (
    BaselineSettings,
    DataSettings,
    ModelSettings,
    RangeSettings,
    SearchSettings,
    Settings,
    StageSettings,
    TrackingSettings,
)

ADAPT, FINETUNE = "schedule.adapt.learning_rate", "schedule.finetune.learning_rate"
NORMALIZE = "schedule.finetune.normalize"
BAD = {"policy": "batch", "finetune_rate": 10.0}  # of the quick search


def small(**search: Any) -> Settings:
    """A search over a network that trains in no time."""
    space = {
        "adapt_rate": RangeSettings(key=ADAPT, choices=[0.001, 10.0]),
        "finetune_rate": RangeSettings(key=FINETUNE, low=1e-6, high=1e30, log=True),
    }
    return Settings(
        data=DataSettings(name="digits", batch_size=256),
        model=ModelSettings(widths=[12]),
        baseline=BaselineSettings(epochs=6, learning_rate=0.01),
        schedule={
            "adapt": StageSettings(train=["batch_norm"], epochs=1, learning_rate=0.001),
            "finetune": StageSettings(epochs=2, learning_rate=0.0001),
        },
        search=SearchSettings(**{"space": space, **search}),
        tracking=TrackingSettings(log_models=False, system_metrics=False),
        progress="none",
    )


def quick(**search: Any) -> Settings:
    """A search over a single stage."""
    settings = small(**search)
    settings.schedule = {"finetune": StageSettings(epochs=3, learning_rate=0.0001)}
    del settings.search.space["adapt_rate"]
    settings.search.space["policy"] = RangeSettings(key=NORMALIZE, choices=["batch", "moving"])
    return settings


def with_range(**values: Any) -> Settings:
    settings = small()
    settings.search.space = {"x": RangeSettings(**values)}
    return settings


def in_memory() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
