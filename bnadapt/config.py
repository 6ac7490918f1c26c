"""Every setting of bnadapt: its type, unit, limits and the one home of its default.

Standard library only, so that a mistake is reported before TensorFlow is imported. The dataclasses
are the schema that Hydra checks every override and every YAML file against; :func:`check` then
checks values, all of them, and reports every mistake at once.
"""

import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from bnadapt.errors import SettingsError

BASELINE, INSERT, CONTROL, EVALUATE = "baseline", "insert", "control", "evaluate"
ACTIVATIONS = (
    "relu", "elu", "gelu", "leaky_relu", "mish", "relu6", "selu", "sigmoid", "silu", "softplus", "swish", "tanh",
)  # fmt: skip
STATISTICS = "statistics"  # what a stage without labels and gradients "trains"
UPPER = re.compile(r"upper\s+(\d+(?:\.\d+)?)\s*%")  # a share of the layers, from the output
SHIFTS = ("contrast", "brightness", "noise", "blur", "rotation", "inversion")
FIXED_STAGES = (BASELINE, INSERT, CONTROL, EVALUATE)


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with its description and limits beside its default."""
    limits = {"help": help, "choices": choices, "minimum": minimum, "above": above, "below": below}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=limits)
    return field(default=default, metadata=limits)


@dataclass
class DataSettings:
    """Which images, from where, and how they are split."""

    source: str = setting(
        "tfds",
        "tfds: a TensorFlow Datasets set; folder: images in one folder per class",
        choices=("tfds", "folder"),
    )
    name: str | None = setting(None, "TensorFlow Datasets name, with its config: cmaterdb/bangla")
    path: str | None = setting(None, "source=folder: the folder that holds a folder per class")
    dir: str | None = setting(
        None, "where TensorFlow Datasets sets are prepared; null: TFDS_DATA_DIR, else TFDS's own default"
    )
    download: bool = setting(False, "fetch and prepare the set where it is missing")
    train_split: str | None = setting(None, "TFDS split to train on; null: train")
    validation_split: str | None = setting(
        None, "TFDS split to validate on; null: validation where there is one, else a part of train"
    )
    test_split: str | None = setting(None, "TFDS split to test on; null: test, else a part of train")
    image_feature: str | None = setting(None, "TFDS feature that holds the image; null: as the set says")
    label_feature: str | None = setting(None, "TFDS feature that holds the label; null: as the set says")
    image_size: list[int] | None = setting(
        None, "[height, width] in pixels; null: what the network wants, else what the set has"
    )
    validation_fraction: float = setting(
        0.1, "part of train held out for validation where the set has no such split", above=0, below=1
    )
    test_fraction: float = setting(
        0.2, "part of train held out for testing where the set has no such split", above=0, below=1
    )
    split_seed: int = setting(0, "which images are held out; independent of seed", minimum=0)
    train_limit: int | None = setting(None, "use at most so many training images", minimum=1)
    labels_per_class: int | None = setting(
        None,
        "train on so many labelled images of each class; the other training images stay, without their labels, for "
        "the statistics of batch normalization",
        minimum=1,
    )
    labels_fraction: float | None = setting(
        None,
        "train on this part of each class instead of labels_per_class, at least one image",
        above=0,
        below=1,
    )
    labels_seed: int = setting(
        0, "which images have labels; a larger number of labels only adds some", minimum=0
    )
    shift: str = setting(
        "none",
        "none, or a controlled change of every image: contrast, brightness, noise, blur, rotation, inversion",
        choices=("none", *SHIFTS),
    )
    severity: int = setting(3, "of the shift, 1 to 5", minimum=1, below=6)
    shift_seed: int = setting(0, "of what is random in the shift", minimum=0)
    batch_size: int = setting(64, "images per training step", minimum=1)
    memory_limit: int = setting(
        2048, "MiB of decoded images per split that are kept in memory; larger splits are streamed", minimum=0
    )
    skip_corrupt: bool = setting(False, "source=folder: leave out images that cannot be decoded")


@dataclass
class ModelSettings:
    """Which network, without batch normalization."""

    kind: str = setting("mlp", "mlp, cnn, or file: a network of your own", choices=("mlp", "cnn", "file"))
    widths: list[int] = setting([256, 128], "kind=mlp: units of each hidden dense layer")
    filters: list[int] = setting([32, 64], "kind=cnn: filters of each convolution; a pooling follows each")
    kernel_size: int = setting(3, "kind=cnn: pixels, width and height of each filter", minimum=1)
    dense: int = setting(64, "kind=cnn: units of the dense layer before the head", minimum=1)
    activation: str = setting(
        "relu", "kind=mlp, cnn: the activation after every layer but the head", choices=ACTIVATIONS
    )
    dropout: float = setting(0.0, "kind=mlp, cnn: share of units dropped before the head", minimum=0, below=1)
    path: str | None = setting(
        None, "kind=file: a .keras file, or an MLflow model URI (runs:/..., models:/...)"
    )
    patch: str | None = setting(
        None, "kind=file: a file such as best.patch that an earlier run made of the same network"
    )
    input_range: list[float] = setting(
        [0.0, 255.0], "kind=file: the pixel values that the network was made for, [lowest, highest]"
    )
    head: str = setting(
        "auto",
        "kind=file or another data set than the baseline's: auto replaces the head where the number of "
        "classes differs, new always",
        choices=("auto", "new"),
    )


@dataclass
class PlacementSettings:
    """Where batch normalization goes."""

    position: str = setting(
        "before_activation",
        "before_activation (fused activations are split), after_activation, or none",
        choices=("before_activation", "after_activation", "none"),
    )
    include: list[str] = setting([".*"], "regular expressions over layer names (full match): only these")
    exclude: list[str] = setting([], "regular expressions over layer names (full match): not these")
    on_input: bool = setting(
        False, "one more on the network's input: it absorbs another brightness or contrast of the images"
    )
    shared: bool = setting(
        False, "layers that the network calls several times: one for all calls, instead of one for each"
    )


@dataclass
class InsertionSettings:
    """How inserted batch normalization starts."""

    init: str = setting(
        "calibrated",
        "calibrated: from data, so that the network computes what it computed; "
        "standard: gamma 1, beta 0, mean 0, variance 1",
        choices=("calibrated", "standard"),
    )
    calibrate_on: str = setting(
        "source",
        "init=calibrated: the training images of source, what baseline_data names, so that the statistics are "
        "those that the network was trained on; or of target, what it is adapted to. The same without baseline_data",
        choices=("source", "target"),
    )
    gamma: float = setting(1.0, "init=standard: the value that gamma starts with", above=0)
    epsilon: float = setting(1e-5, "added to the variance", above=0, below=1)
    momentum: float | None = setting(
        None, "of the moving statistics; null: chosen from the steps per epoch", minimum=0, below=1
    )
    samples: int | None = setting(
        8192, "images measured for statistics; null: all training images", minimum=2
    )


@dataclass
class SwitchSettings:
    """The three switches of some batch normalization layers; null leaves one as the stage says."""

    affine: bool | None = setting(None, "whether gamma and beta train")
    statistics: str | None = setting(
        None, "whether the moving statistics follow the batches: move or stay", choices=("move", "stay")
    )
    normalize: str | None = setting(
        None, "what training normalizes with: batch or moving statistics", choices=("batch", "moving")
    )


@dataclass
class StageSettings:
    """One training stage: what trains, how fast, how long, and what batch normalization does meanwhile."""

    train: list[str] = setting(
        ["all"],
        "what trains: all, batch_norm, head, biases, 'upper 50%' (of the layers, from the output), or "
        "regular expressions over layer names; statistics: nothing by gradients and without labels, the moving "
        "statistics become those of the training images",
    )
    epochs: int = setting(5, "at most so many passes over the training images", minimum=0)
    learning_rate: float = setting(1e-3, "of the optimizer at the start", above=0)
    decay: str = setting(
        "none", "none, or cosine: the rate falls to zero over the stage", choices=("none", "cosine")
    )
    optimizer: str = setting("adam", "adam, adamw or sgd (momentum 0.9)", choices=("adam", "adamw", "sgd"))
    weight_decay: float = setting(
        1e-2, "optimizer=adamw: per step, times the rate; never on gamma, beta and biases", minimum=0
    )
    statistics: str = setting(
        "move",
        "of batch normalization that trains: whether its moving statistics follow the batches (move) or stay",
        choices=("move", "stay"),
    )
    normalize: str = setting(
        "batch",
        "of batch normalization that trains: whether training normalizes with the batch or with the moving "
        "statistics",
        choices=("batch", "moving"),
    )
    batch_norm: dict[str, SwitchSettings] = setting(
        {}, "other switches for some layers: regular expressions over layer names, each with its switches"
    )
    reestimate: bool = setting(
        True, "measure the statistics that moved exactly over the training images at the end"
    )
    prior: float = setting(
        0.0, "train=[statistics]: as how many images the statistics that were there count", minimum=0
    )
    keep: str = setting(
        "best",
        "best: the epoch with the lowest validation loss; last: the last one",
        choices=("best", "last"),
    )
    patience: int | None = setting(
        None, "stop after so many epochs without a lower validation loss; null: never", minimum=1
    )


@dataclass
class BaselineSettings(StageSettings):
    """The network without batch normalization, the yardstick.

    A network built here trains wholly. One from a file is taken as it is where its head fits the
    data; where it needed a new head, that head alone trains.
    """

    train: list[str] = setting(["auto"], "auto: as the docstring says; else as in a schedule's stages")
    epochs: int = setting(10, "at most so many passes over the training images", minimum=0)


@dataclass
class EvaluationSettings:
    """What the result is compared with."""

    control: bool = setting(
        True, "repeat the schedule on the baseline, without batch normalization and with everything training"
    )
    batch_size: int = setting(256, "images per forward pass", minimum=1)
    bootstrap: int = setting(2000, "resamples of the test images behind the verdict's interval", minimum=100)


@dataclass
class TrackingSettings:
    """Where runs are recorded."""

    uri: str = setting(
        "sqlite:///mlflow.db", "MLflow tracking URI; relative paths are below the working directory"
    )
    experiment: str = setting("bnadapt", "MLflow experiment")
    run_name: str | None = setting(None, "null: made of data, network, placement and seed")
    log_models: bool = setting(True, "keep every stage's network in MLflow")
    telemetry: bool = setting(False, "let MLflow send usage statistics to its makers")


@dataclass
class Settings:
    """The whole experiment."""

    data: DataSettings = field(default_factory=DataSettings)
    baseline_data: DataSettings | None = None
    model: ModelSettings = field(default_factory=ModelSettings)
    placement: PlacementSettings = field(default_factory=PlacementSettings)
    insertion: InsertionSettings = field(default_factory=InsertionSettings)
    baseline: BaselineSettings = field(default_factory=BaselineSettings)
    schedule: dict[str, StageSettings] = field(default_factory=dict)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    stages: list[str] | None = setting(
        None, "null: all; else some of baseline, insert, the schedule's, evaluate"
    )
    from_run: str | None = setting(None, "id of an earlier MLflow run whose networks the stages go on from")
    seed: int = setting(0, "of initial weights, order of images and dropout", minimum=0, below=2**32)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    progress: str = setting(
        "auto", "auto: bars in a terminal, lines elsewhere", choices=("auto", "bars", "lines", "none")
    )
    traceback: bool = setting(False, "print Python's traceback with an error")


def check(settings: Settings) -> None:
    """Raise a SettingsError that lists every value out of range and every contradiction; else return None."""
    mistakes = [*_values_out_of_range(settings, ""), *_contradictions(settings)]
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def stage_order(settings: Settings) -> list[str]:
    """All stages of the pipeline in order: baseline, insert, the schedule's, evaluate."""
    return [BASELINE, INSERT, *settings.schedule, EVALUATE]


def chosen_stages(settings: Settings) -> list[str]:
    """The stages that this run performs, in the pipeline's order."""
    order = stage_order(settings)
    return order if settings.stages is None else [name for name in order if name in settings.stages]


def inserts(placement: PlacementSettings) -> bool:
    """Whether a placement asks for any batch normalization."""
    return placement.position != "none" or placement.on_input


def _values_out_of_range(settings: Any, prefix: str) -> list[str]:
    mistakes = []
    for each in fields(settings):
        key, value = prefix + each.name, getattr(settings, each.name)
        if is_dataclass(value):
            mistakes += _values_out_of_range(value, f"{key}.")
            continue
        if isinstance(value, dict):
            for name, inner in value.items():
                mistakes += _values_out_of_range(inner, f"{key}.{name}.")
            continue
        mistakes += _value_out_of_range(key, value, dict(each.metadata))
    return mistakes


def _value_out_of_range(key: str, value: Any, limits: dict[str, Any]) -> list[str]:
    if value is None or not limits:
        return []
    if limits["choices"] and value not in limits["choices"]:
        return [f"{key}={value}: choose one of {', '.join(map(str, limits['choices']))}"]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return []
    if value != value:
        return [f"{key}={value}: must be a number"]
    if limits["minimum"] is not None and value < limits["minimum"]:
        return [f"{key}={value}: must be at least {limits['minimum']}"]
    if limits["above"] is not None and value <= limits["above"]:
        return [f"{key}={value}: must be greater than {limits['above']}"]
    if limits["below"] is not None and value >= limits["below"]:
        return [f"{key}={value}: must be less than {limits['below']}"]
    return []


def _contradictions(settings: Settings) -> list[str]:
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
    for key in ("widths", "filters"):
        if any(width < 1 for width in getattr(model, key)):
            mistakes.append(f"model.{key}={getattr(model, key)}: every number must be at least 1")
    if len(model.input_range) != 2 or model.input_range[0] >= model.input_range[1]:
        mistakes.append(
            f"model.input_range={model.input_range}: give the lowest and the highest pixel value, such as [0,1]"
        )
    if settings.insertion.gamma != 1.0 and settings.insertion.init != "standard":
        mistakes.append(
            f"insertion.gamma={settings.insertion.gamma} is used by insertion.init=standard only: "
            "calibrated insertion computes gamma from data"
        )
    for key in ("include", "exclude"):
        mistakes += _bad_patterns(f"placement.{key}", getattr(settings.placement, key))
    for name, stage in settings.schedule.items():
        if name in FIXED_STAGES or not re.fullmatch(r"[A-Za-z]\w*", name):
            mistakes.append(
                f"schedule.{name}: a stage's name is a word of letters, digits and underscores, and none of "
                f"{', '.join(FIXED_STAGES)}"
            )
        mistakes += _selector_mistakes(f"schedule.{name}.train", stage.train)
        mistakes += _switch_mistakes(f"schedule.{name}", stage)
    mistakes += _selector_mistakes("baseline.train", settings.baseline.train)
    if STATISTICS in settings.baseline.train:
        mistakes.append(
            "baseline.train=[statistics]: the baseline has no batch normalization that could use it"
        )
    if settings.data.batch_size == 1 and _normalizes_batches(settings):
        mistakes.append(
            "data.batch_size=1: batch normalization on batch statistics needs more than one image per step; "
            "take data.batch_size=16 or more, or schedule.STAGE.normalize=moving for every stage"
        )
    mistakes += _stage_contradictions(settings)
    return mistakes


def _data_contradictions(prefix: str, data: DataSettings) -> list[str]:
    mistakes = []
    if data.source == "tfds" and not data.name:
        mistakes.append(f"{prefix}.name is missing: {prefix}=tfds needs {prefix}.name=NAME or NAME/CONFIG")
    if data.source == "folder" and not data.path:
        mistakes.append(f"{prefix}.path is missing: {prefix}=folder needs {prefix}.path=DIR")
    if data.source == "tfds" and data.path:
        mistakes.append(
            f"{prefix}.path={data.path} is used by {prefix}=folder only; "
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


def _normalizes_batches(settings: Settings) -> bool:
    return inserts(settings.placement) and any(
        how.normalize == "batch" and how.epochs and how.train != [STATISTICS]
        for how in settings.schedule.values()
    )


def _selector_mistakes(key: str, selectors: list[str]) -> list[str]:
    if not selectors:
        return [f"{key} is empty: name what trains, such as [batch_norm]"]
    uppers = [(selector, UPPER.fullmatch(selector)) for selector in selectors]
    return [
        *(
            f"{key}={selector}: must be above 0% and at most 100%"
            for selector, match in uppers
            if match and not 0 < float(match[1]) <= 100
        ),
        *_bad_patterns(key, [selector for selector, match in uppers if not match]),
    ]


def _switch_mistakes(key: str, stage: StageSettings) -> list[str]:
    mistakes = _bad_patterns(f"{key}.batch_norm", list(stage.batch_norm))
    if STATISTICS in stage.train and len(stage.train) > 1:
        mistakes.append(
            f"{key}.train={stage.train}: statistics stands alone, because nothing trains by gradients then; "
            "make two stages of it"
        )
    if stage.prior and stage.train != [STATISTICS]:
        mistakes.append(f"{key}.prior={stage.prior:g} is used by train=[statistics] only")
    if stage.batch_norm and stage.train == [STATISTICS]:
        mistakes.append(f"{key}.batch_norm is not used by train=[statistics]: nothing trains")
    return mistakes


def _bad_patterns(key: str, patterns: list[str]) -> list[str]:
    mistakes = []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            mistakes.append(f"{key}={pattern}: not a regular expression ({error})")
    return mistakes


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
