"""What things are called in MLflow, and the forms that it refuses or mangles."""

import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any

from bnadapt.config import StageSettings
from bnadapt.evaluation.arms import Comparison
from bnadapt.evaluation.results import Diagnosis, LayerShift, Scores
from bnadapt.secrets import redacted

STAGE, ARM, FROM_RUN, ERROR = "stage", "arm", "from_run", "error"
VERDICT, RECOMMENDED, REGISTERED = "verdict", "recommended", "registered"
# By which a run or a network is found again by whoever goes on with it; MLflow shows no tags of its own prefix.
HANDLE = "mlflow.bnadapt.handle"
PARENT = "mlflow.parentRunId"
WEIGHTS = "weights_sha256"  # the tag of a run that left a network
PROVENANCE = "provenance.json"  # with config.yaml, what it takes to repeat a run
DESCRIPTION = "mlflow.note.content"
STEPS, TRAINABLE, SECONDS, KEPT_EPOCH = "steps", "trainable_parameters", "stage_seconds", "kept_epoch"
ARM_SECONDS = "arm_seconds"
FIRST = ("val_accuracy", "val_loss", "accuracy", "loss")
# What only training leaves: where one of these stands, there was an epoch or a look.
OF_TRAINING = ("accuracy", "loss", "learning_rate", "seconds")
# What a stage's run says of its training whatever it is; the rest where it is not as usual.
ALWAYS_SAID = ("train", "epochs", "learning_rate", "optimizer")

MAXIMUM_KEY, MAXIMUM_PARAMETER, MAXIMUM_TAG, MAXIMUM_DIGEST = 250, 6000, 8000, 36


def stage_label(order: int, name: str) -> str:
    """How a stage is called in MLflow: ``4_finetune``, so that an alphabetical list is in order."""
    return f"{order}_{name}"


def stage_name(label: str) -> str:
    """The stage's own name, from what :func:`stage_label` made of it."""
    return label.partition("_")[2]


def stage_place(label: str) -> int:
    """The stage's number in its pipeline, from what :func:`stage_label` made of it; 0 where there is none."""
    number = label.partition("_")[0]
    return int(number) if number.isdecimal() else 0


def accuracy_key(split: str, label: str) -> str:
    """The pipeline's metric for a stage's accuracy: ``val/4_finetune`` or ``test/4_finetune``.

    MLflow's charts show some ten characters of a key, which must tell the stages apart.
    """
    return f"{split}/{label}"


def description(command: str, text: str = "") -> str:
    """A run's description in Markdown: a text of its own, of which MLflow shows the first lines, then the command."""
    longest = max((len(run) for run in re.findall("`+", command)), default=0)
    fence = "`" * (longest + 1)
    # A backtick at the edge of the command would merge with the fence.
    quoted = f" {command} " if longest else command
    parts = [
        text,
        f"{fence}{quoted}{fence}",
        "Metrics `val/...` and `test/...`: accuracy on the validation and test images after each stage.",
    ]
    return "\n\n".join(part for part in parts if part)


def in_order(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics, what runs are compared by first, the rest as they were."""
    first = {key: metrics[key] for key in FIRST if key in metrics}
    return first | dict(metrics)


def steps_of_labels(comparisons: Sequence[Comparison]) -> list[tuple[int, Comparison]]:
    """A step in MLflow for each comparison, in ascending order: its number of labels, 0 where it is alone.

    All images come at the power of ten above the other numbers.
    """
    if len(comparisons) == 1:
        return [(0, comparisons[0])]
    most = max((each.labels for each in comparisons if each.labels is not None), default=0)
    above = 10 ** len(str(most))
    steps = [(above if each.labels is None else each.labels, each) for each in comparisons]
    return sorted(steps, key=lambda item: item[0])


def filter_tags(parameters: Mapping[str, Any], tags: Mapping[str, Any]) -> dict[str, Any]:
    """The tags, and as tags what runs are most often searched by: data set, network, placement.

    Data and placement are what they are: where the command names a kind of data, such as ``tfds``, or says more
    of the placement, the parameter is the truth.
    """
    true = {key: parameters[key] for key in ("data", "baseline_data", "placement") if key in parameters}
    network = {"model": parameters["model"]} if "model" in parameters else {}
    return network | dict(tags) | true


def stage_parameters(*stages: StageSettings) -> dict[str, str]:
    """What trains in one run, stage after stage, in a word each: what matters always, the rest where unusual.

    Every parameter is a column in MLflow, so those that are at their defaults are left out.
    """
    said = {}
    for each in fields(StageSettings):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        values = [asdict(stage)[each.name] for stage in stages]
        if each.name in ALWAYS_SAID or any(value != default for value in values):
            said[each.name] = ", ".join(map(_in_words, values))
    return said if stages else {}


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return "none" if value is None else str(value)


def model_name(label: str, pipeline: str) -> str:
    """A network's name in MLflow's list of models, where nothing else says which pipeline it is from."""
    return re.sub(r"[/:.%\"']", "_", f"{label} {pipeline}")[:MAXIMUM_KEY]


def clean_key(key: str) -> str:
    """A key that MLflow accepts: letters, digits and ``_-./: `` only, a plain relative path, not too long."""
    allowed = re.sub(r"[^\w\-./: ]", "_", key)
    return posixpath.normpath(allowed.lstrip("/.") or "_")[:MAXIMUM_KEY]


def cut(value: Any, limit: int) -> str:
    """The value as text of at most ``limit`` characters; a text that was cut ends in three dots."""
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def parameters_for_mlflow(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters with keys and values that MLflow accepts, and without secrets."""
    return {clean_key(key): cut(redacted(str(value)), MAXIMUM_PARAMETER) for key, value in parameters.items()}


def tags_for_mlflow(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags with keys and values that MLflow accepts, and without secrets."""
    return {clean_key(key): cut(redacted(str(value)), MAXIMUM_TAG) for key, value in tags.items()}


def finite(value: float) -> float:
    """The value, or NaN for an infinity, which MLflow would return as 1.797e308 and draw so."""
    return float(value) if math.isfinite(value) else math.nan


def score_metrics(prefix: str, scores: Scores) -> dict[str, float]:
    """Scores under the prefix, val or test: ``_accuracy``, ``_loss``, ``_macro_f1``, ``_calibration_error``."""
    values = {
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "macro_f1": scores.macro_f1,
        "calibration_error": scores.calibration_error,
    }
    return {f"{prefix}_{key}": value for key, value in values.items()}


def diagnosis_metrics(diagnosis: Diagnosis) -> dict[str, float]:
    """A diagnosis in four numbers; of the layers the largest gap of means, and the gammas of all together."""
    gammas = [each for each in diagnosis.layers if not math.isnan(each.gammas_near_zero)]
    channels = sum(each.channels for each in gammas)
    near_zero = sum(each.gammas_near_zero * each.channels for each in gammas)
    return {
        "statistics_gap": max(each.mean for each in diagnosis.layers),
        "gammas_near_zero": near_zero / channels if channels else math.nan,
        "inference_mode_accuracy": diagnosis.inference_accuracy,
        "batch_mode_accuracy": diagnosis.batch_accuracy,
    }


def shift_metrics(shifts: Sequence[LayerShift]) -> dict[str, float]:
    """The divergence between two data sets: the mean over all layers, and the largest of any."""
    divergences = [each.divergence for each in shifts]
    return {
        "statistics_shift_mean": sum(divergences) / len(divergences),
        "statistics_shift_largest": max(divergences),
    }
