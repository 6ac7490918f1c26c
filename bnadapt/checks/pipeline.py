"""Contradictions in data, network, placement and stages."""

import re

from bnadapt.checks.selectors import bad_patterns, selector_mistakes, switch_mistakes
from bnadapt.config import (
    FIXED_STAGES,
    PER_CHANNEL,
    STATISTICS,
    DataSettings,
    Settings,
    StageSettings,
    inserts,
    stage_order,
    takes_steps,
)

_WITHOUT_BATCH_NORM = ("head", "biases", STATISTICS)  # what trains without any batch normalization
_NOT_FOR_TABLES = {
    **dict.fromkeys(
        (
            "name",
            "dir",
            "download",
            "train_split",
            "validation_split",
            "test_split",
            "image_feature",
            "label_feature",
        ),
        "TensorFlow Datasets sets",
    ),
    **dict.fromkeys(("image_size", "shift", "severity", "shift_seed"), "images"),
    "skip_corrupt": "image folders",
}


def contradictions(settings: Settings) -> list[str]:
    """Values that contradict each other, or are of no use beside others."""
    mistakes = []
    for prefix, data in (("data", settings.data), ("baseline_data", settings.baseline_data)):
        if data is not None:
            mistakes += _data_contradictions(prefix, data)
    model = settings.model
    if model.kind == "file" and model.path is None:
        mistakes.append("model.path is missing: model=file needs model.path=FILE.keras")
    if model.kind != "file" and model.path is not None:
        mistakes.append(f"model.path={model.path} is used by model=file only, not by model.kind={model.kind}")
    if model.kind != "file" and model.patch is not None:
        mistakes.append(
            f"model.patch={model.patch} is used by model=file only, not by model.kind={model.kind}"
        )
    if model.kind != "file" and model.allow_lambda:
        mistakes.append(f"model.allow_lambda=true is used by model=file only, not by model.kind={model.kind}")
    if model.kind != "file" and model.code is not None:
        mistakes.append(f"model.code={model.code} is used by model=file only, not by model.kind={model.kind}")
    for key in ("widths", "filters"):
        if any(width < 1 for width in getattr(model, key)):
            mistakes.append(f"model.{key}={getattr(model, key)}: every number must be at least 1")
    if len(model.input_range) != 2 or model.input_range[0] >= model.input_range[1]:
        mistakes.append(
            f"model.input_range={model.input_range}: give the lowest and the highest pixel value, such as [0,1]"
        )
    inits = {settings.insertion.init, *(arm.init for arm in settings.comparison.arms.values())}
    if settings.insertion.gamma != 1.0 and "standard" not in inits:
        mistakes.append(
            f"insertion.gamma={settings.insertion.gamma} is used by insertion.init=standard only: "
            "calibrated insertion computes gamma from data"
        )
    for key in ("include", "exclude"):
        mistakes += bad_patterns(f"placement.{key}", getattr(settings.placement, key))
    for name, stage in settings.schedule.items():
        if name in FIXED_STAGES or not re.fullmatch(r"[A-Za-z]\w*", name):
            mistakes.append(
                f"schedule.{name}: a stage's name is a word of letters, digits and underscores, and none of "
                f"{', '.join(FIXED_STAGES)}"
            )
        mistakes += selector_mistakes(f"schedule.{name}.train", stage.train)
        mistakes += switch_mistakes(f"schedule.{name}", stage)
    if settings.resume is not None and not re.fullmatch(r"true|[0-9a-f]{32}", settings.resume.lower()):
        mistakes.append(
            f"resume={settings.resume}: give true or the id of a run, 32 hexadecimal digits; leave it out to begin anew"
        )
    if settings.repeat is not None and settings.resume is not None:
        mistakes.append(
            "repeat does a run again from its beginning, resume goes on with one: give one of them"
        )
    mistakes += selector_mistakes("baseline.train", settings.baseline.train)
    if STATISTICS in settings.baseline.train:
        mistakes.append(
            "baseline.train=[statistics]: the baseline has no batch normalization that could use it"
        )
    if settings.data.batch_size == 1 and not settings.comparison.arms:
        alone = (
            "data.batch_size=1: batch normalization on batch statistics needs more than one image per step"
        )
        names = stages_that_normalize_batches(settings)
        if names:
            mistakes.append(f"{alone}; take data.batch_size=16 or more, or {_moving(names)}")
    mistakes += _stage_contradictions(settings)
    return mistakes


def _data_contradictions(prefix: str, data: DataSettings) -> list[str]:
    mistakes = []
    if data.source == "tfds" and not data.name:
        mistakes.append(f"{prefix}.name is missing: {prefix}=tfds needs {prefix}.name=NAME or NAME/CONFIG")
    if data.source == "folder" and not data.path:
        mistakes.append(f"{prefix}.path is missing: {prefix}=folder needs {prefix}.path=DIR")
    if data.source == "table":
        mistakes += _table_contradictions(prefix, data)
    elif data.label_column is not None:
        mistakes.append(
            f"{prefix}.label_column={data.label_column} is used by {prefix}=table only; "
            f"{prefix}.label_feature chooses the label of a TensorFlow Datasets set"
        )
    if data.source == "tfds" and data.path:
        mistakes.append(
            f"{prefix}.path={data.path} is used by {prefix}=folder and {prefix}=table only; "
            f"{prefix}.dir says where TensorFlow Datasets sets are prepared"
        )
    if data.image_size is not None and (len(data.image_size) != 2 or min(data.image_size) < 1):
        mistakes.append(f"{prefix}.image_size={data.image_size}: give [height,width] in pixels")
    if data.labels_per_class is not None and data.labels_fraction is not None:
        mistakes.append(
            f"{prefix}.labels_per_class={data.labels_per_class} and {prefix}.labels_fraction={data.labels_fraction} "
            "both say how many images have labels: give one of them"
        )
    if data.validation_fraction + data.test_fraction >= 1:
        mistakes.append(
            f"{prefix}.validation_fraction={data.validation_fraction} and {prefix}.test_fraction="
            f"{data.test_fraction} leave nothing to train on"
        )
    return mistakes


def _table_contradictions(prefix: str, data: DataSettings) -> list[str]:
    """What a table needs, and settings of images and of TensorFlow Datasets sets, which do nothing to it."""
    mistakes = []
    if not data.path:
        mistakes.append(
            f"{prefix}.path is missing: {prefix}=table needs {prefix}.path=FILE.csv, FILE.npz, or a folder with "
            "train.csv"
        )
    default = DataSettings()
    for key, user in _NOT_FOR_TABLES.items():
        value = getattr(data, key)
        if value != getattr(default, key):
            mistakes.append(
                f"{prefix}.{key}={value} is used by {user} only, not by {prefix}=table: leave it out"
            )
    return mistakes


def stages_that_normalize_batches(settings: Settings) -> list[str]:
    """Names of the chosen stages in which inserted batch normalization normalizes with the batch."""
    chosen = settings.schedule if settings.stages is None else settings.stages
    return [
        name
        for name, how in settings.schedule.items()
        if name in chosen and inserts(settings.placement) and takes_steps(how) and _normalizes_batches(how)
    ]


def single_image_mistake(settings: Settings, training_images: int) -> str | None:
    """What is wrong where one training image is all that there is for statistics of batches; None where nothing is."""
    names = stages_that_normalize_batches(settings)
    if training_images != 1 or not names:
        return None
    return (
        "there is one training image: batch normalization on batch statistics needs more than one per step; take more "
        f"(data.train_limit), or {_moving(names)}"
    )


def _normalizes_batches(how: StageSettings) -> bool:
    """Whether a stage's batch normalization normalizes with the batch; one that does not train never does."""
    trains = any(each not in _WITHOUT_BATCH_NORM and not PER_CHANNEL.fullmatch(each) for each in how.train)
    return (trains and how.normalize == "batch") or any(
        switches.normalize == "batch" for switches in how.batch_norm.values()
    )


def _moving(names: list[str]) -> str:
    return " ".join(f"schedule.{name}.normalize=moving" for name in names)


def _stage_contradictions(settings: Settings) -> list[str]:
    if settings.stages is None:
        return []
    order = stage_order(settings)
    unknown = [name for name in settings.stages if name not in order]
    if unknown:
        return [
            f"stages={settings.stages}: no stage is called {', '.join(unknown)}; there are {', '.join(order)}"
        ]
    if not settings.stages:
        return [f"stages is empty: name some of {', '.join(order)}"]
    return []
