"""Every setting of bnadapt: its type, unit, limits and the one home of its default.

Standard library only, so that a mistake is reported before TensorFlow is imported. The dataclasses
are the schema that Hydra checks every override and every YAML file against; values are checked in
:mod:`bnadapt.checks`.
"""

import re
from dataclasses import dataclass, field
from typing import Any

BASELINE, INSERT, CONTROL, EVALUATE = "baseline", "insert", "control", "evaluate"
ACTIVATIONS = (
    "relu", "elu", "gelu", "leaky_relu", "mish", "relu6", "selu", "sigmoid", "silu", "softplus", "swish", "tanh",
)  # fmt: skip
STATISTICS = "statistics"  # what a stage without labels and gradients "trains"
UPPER = re.compile(r"upper\s+(\d+(?:\.\d+)?)\s*%")  # a share of the layers, from the output
PER_CHANNEL = re.compile(
    r"(\d+)\s+per channel"
)  # so many random weights for every channel of a layer's output
SHIFTS = ("contrast", "brightness", "noise", "blur", "rotation", "inversion")
UNTOUCHED = "untouched"  # the arm that every comparison has: the baseline as it is
FIXED_STAGES = (BASELINE, INSERT, CONTROL, EVALUATE)
WHATEVER_IS_THE_SAME = "true"  # resume: the run of the same settings, data and code
# What may differ between two runs that do the same: it changes nothing but where and how that is told.


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with its description and limits beside its default."""
    limits = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
    }
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=limits)
    return field(default=default, metadata=limits)


@dataclass
class DataSettings:
    """Which images, from where, and how they are split."""

    source: str = setting(
        "tfds",
        "tfds: a TensorFlow Datasets set; folder: images in one folder per class; table: rows of numbers",
        choices=("tfds", "folder", "table"),
    )
    name: str | None = setting(None, "TensorFlow Datasets name, with its config: cmaterdb/bangla")
    path: str | None = setting(
        None,
        "source=folder: the folder that holds a folder per class; source=table: a .csv or .npz file, or a folder",
    )
    label_column: str | None = setting(
        None, "source=table: the column that holds the class; null: label or class, else the last one"
    )
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
    validation_limit: int | None = setting(
        None,
        "use at most so many validation images: where labels are few, those to choose by are few as well",
        minimum=1,
    )
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
    class_weights: str = setting(
        "none",
        "balanced: in the training loss each class counts as much as any other, however many images it has",
        choices=("none", "balanced"),
    )
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
    allow_lambda: bool = setting(
        False,
        "kind=file: load a file that holds Lambda layers, which run code of whoever made the file",
    )
    code: str | None = setting(
        None,
        "kind=file: a Python file or module that registers the classes which the network needs; it is run",
    )
    precision: str = setting(
        "auto",
        "auto: what the file says, else float32; mixed_float16 or mixed_bfloat16 compute in 16 bits and keep weights "
        "in 32",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
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
        "what trains: all, batch_norm, head, biases, 'upper 50%' (of the layers, from the output), "
        "'2 per channel' (weights drawn at random in each layer that could have batch normalization), or "
        "regular expressions over layer names; statistics: nothing by gradients and without labels, the moving "
        "statistics become those of the training images",
    )
    epochs: int = setting(5, "at most so many passes over the training images", minimum=0)
    steps: int | None = setting(
        None, "optimizer steps to take, instead of epochs; what few labelled images want", minimum=1
    )
    looks: int = setting(
        10, "with steps: how often the validation images are looked at, evenly spread", minimum=1
    )
    learning_rate: float = setting(1e-3, "of the optimizer at the start", above=0)
    find_rate: bool = setting(
        False,
        "replace learning_rate by what a range test finds: a trial run at ever higher rates, then undone",
    )
    layerwise_decay: float = setting(
        1.0,
        "the rate of each layer is that of the next one towards the output times this; 1: one rate for all",
        above=0,
        maximum=1,
    )
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
    register_as: str | None = setting(
        None, "register the kept network as the next version of this model; null: do not"
    )
    alias: str | None = setting(None, "register_as: the alias that then points to it, such as champion")
    system_metrics: bool = setting(True, "record use of processor, memory and accelerator while stages run")
    telemetry: bool = setting(False, "let MLflow send usage statistics to its makers")


@dataclass
class ArmStageSettings:
    """One training stage of an arm; budget, optimizer and rates are the comparison's, the same for every arm."""

    train: list[str] = setting(["all"], "what trains, as in a schedule's stages")
    share: float = setting(1.0, "of the comparison's steps", above=0, maximum=1)
    rate: float = setting(1.0, "times the learning rate that is tried", above=0)
    decay: str = setting("cosine", "as in a schedule's stages", choices=("none", "cosine"))
    statistics: str = setting("move", "as in a schedule's stages", choices=("move", "stay"))
    normalize: str = setting("batch", "as in a schedule's stages", choices=("batch", "moving"))


@dataclass
class ArmSettings:
    """One way to go on from the baseline."""

    description: str = setting("", "what it is, for readers of the report")
    position: str = setting(
        "none",
        "chosen: placement.position; other: after the activation where that is before it, and the reverse; none",
        choices=("chosen", "other", "none"),
    )
    on_input: bool = setting(False, "one more batch normalization on the network's input")
    init: str = setting("calibrated", "as insertion.init", choices=("calibrated", "standard"))
    schedule: dict[str, ArmStageSettings] = field(default_factory=dict)


@dataclass
class ComparisonSettings:
    """Several ways to go on from one baseline, with one split and one budget, chosen on validation."""

    arms: dict[str, ArmSettings] = setting({}, "the ways to go on, by name; none: no comparison")
    only: list[str] | None = setting(
        None, "names of the arms to run, beside untouched and the reference; null: all"
    )
    reference: str = setting("further_training", "the arm that any gain is measured against")
    seeds: list[int] = setting(
        [0, 1, 2],
        "added to seed and data.labels_seed: each a repetition with its own initial weights, order of images and "
        "labelled images; split and test images stay",
    )
    labels_per_class: list[int | None] = setting(
        [], "repeat everything with so many labelled images of each class (null: all); empty: as the data say"
    )
    steps: int = setting(300, "optimizer steps of every arm that trains", minimum=1)
    looks: int = setting(10, "how often the validation images are looked at in an arm", minimum=1)
    learning_rates: list[float] = setting(
        [1e-4, 1e-3, 1e-2], "tried in every arm; the one with the best validation accuracy counts"
    )
    choose_rate: str = setting(
        "first",
        "first: rates are tried with the first of the seeds, which the others take over; each: with every one",
        choices=("first", "each"),
    )
    optimizer: str = setting("adam", "adam, adamw or sgd (momentum 0.9)", choices=("adam", "adamw", "sgd"))
    bootstrap: int = setting(10000, "resamples of seeds and test images behind the intervals", minimum=1000)


@dataclass
class RangeSettings:
    """The values of one setting that a search may try: an interval or a list of choices."""

    key: str = setting("", "the setting: schedule.adapt.learning_rate")
    low: float | None = setting(None, "lowest value of an interval")
    high: float | None = setting(None, "highest value of an interval")
    log: bool = setting(False, "draw the logarithm evenly, not the value")
    choices: list[Any] = setting([], "instead of an interval: the values themselves")


@dataclass
class SearchSettings:
    """A search for better settings, scored on the validation images alone."""

    space: dict[str, RangeSettings] = setting({}, "what to vary, by names of your own; nothing: no search")
    trials: int = setting(20, "finished trials in all, those of an interrupted search included", minimum=1)
    study: str | None = setting(
        None, "name of the study: the same name goes on with it; null: made of data, network and settings"
    )
    storage: str = setting(
        "sqlite:///search.db", "Optuna storage; relative paths are below the working directory"
    )
    pruning: bool = setting(
        True, "stop trials whose validation accuracy stays below the median of the others"
    )


@dataclass
class CheckpointSettings:
    """What an interrupted run goes on from."""

    directory: str = setting(
        "checkpoints", "where the state of runs is kept; relative paths are below the working directory"
    )
    every_steps: int | None = setting(
        None,
        "keep the state also after so many optimizer steps; null: after each epoch or look alone",
        minimum=1,
    )


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
    resume: str | None = setting(
        None,
        "true: go on with an interrupted run of the same settings, data and code, and do nothing that was finished "
        "before; or the id of the run to go on with; null: begin anew",
    )
    repeat: str | None = setting(
        None, "id of an earlier run: do the same again and compare the weights, bit by bit"
    )
    checkpoints: CheckpointSettings = field(default_factory=CheckpointSettings)
    comparison: ComparisonSettings = field(default_factory=ComparisonSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    seed: int = setting(0, "of initial weights, order of images and dropout", minimum=0, below=2**32)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    deterministic: bool = setting(
        False,
        "on a GPU: take only kernels that give the same bits every time; slower, and some are missing. A processor "
        "does so anyway",
    )
    progress: str = setting(
        "auto", "auto: bars in a terminal, lines elsewhere", choices=("auto", "bars", "lines", "none")
    )
    traceback: bool = setting(False, "print Python's traceback with an error")


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


def takes_steps(how: StageSettings) -> bool:
    """Whether a stage takes optimizer steps: by steps or epochs, and not where it measures statistics alone."""
    return how.train != [STATISTICS] and (how.steps is not None or how.epochs > 0)


def length_of(*stages: StageSettings) -> str:
    """How long stages train at most, in words: ``5 epochs``, ``300 steps + 1 epoch``; empty where none takes steps."""
    trains = [how for how in stages if takes_steps(how)]
    counts = {
        "step": sum(how.steps for how in trains if how.steps is not None),
        "epoch": sum(how.epochs for how in trains if how.steps is None),
    }
    return " + ".join(f"{count:,} {unit}{'s' * (count > 1)}" for unit, count in counts.items() if count)


def names_a_run(resume: str | None) -> bool:
    """Whether ``resume`` is the id of a run, and not the wish to go on with whatever is the same."""
    return resume is not None and resume.lower() != WHATEVER_IS_THE_SAME
