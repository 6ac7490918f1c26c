"""Checks of values: every setting out of range and every contradiction, all of them at once.

Standard library only, so that a mistake is reported before TensorFlow is imported.
"""

import re
from dataclasses import fields, is_dataclass
from typing import Any

from bnadapt.config import (
    EVALUATE,
    FIXED_STAGES,
    PER_CHANNEL,
    STATISTICS,
    UNTOUCHED,
    UPPER,
    ArmSettings,
    DataSettings,
    Settings,
    StageSettings,
    inserts,
    stage_order,
    takes_steps,
)
from bnadapt.errors import SettingsError
from bnadapt.ranges import space_mistakes


def check(settings: Settings) -> None:
    """Raise a SettingsError that lists every value out of range and every contradiction; else return None."""
    mistakes = [*_mistakes(settings), *space_mistakes(settings, _mistakes)]
    if mistakes:
        raise SettingsError("\n".join(mistakes))


def _mistakes(settings: Settings) -> list[str]:
    return [*_values_out_of_range(settings, ""), *_contradictions(settings)]


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
    if limits["maximum"] is not None and value > limits["maximum"]:
        return [f"{key}={value}: must be at most {limits['maximum']}"]
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
    mistakes += _comparison_mistakes(settings)
    mistakes += registry_mistakes(settings)
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
        how.normalize == "batch" and takes_steps(how) for how in settings.schedule.values()
    )


def _selector_mistakes(key: str, selectors: list[str]) -> list[str]:
    if not selectors:
        return [f"{key} is empty: name what trains, such as [batch_norm]"]
    uppers = [(selector, UPPER.fullmatch(selector)) for selector in selectors]
    drawn = [(selector, PER_CHANNEL.fullmatch(selector)) for selector in selectors]
    return [
        *(
            f"{key}={selector}: must be at least 1"
            for selector, match in drawn
            if match and int(match[1]) < 1
        ),
        *(
            f"{key}={selector}: must be above 0% and at most 100%"
            for selector, match in uppers
            if match and not 0 < float(match[1]) <= 100
        ),
        *_bad_patterns(
            key, [selector for selector, match in uppers if not match and not PER_CHANNEL.fullmatch(selector)]
        ),
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
    if stage.train == [STATISTICS] and (stage.find_rate or stage.layerwise_decay != 1):
        unused = "find_rate" if stage.find_rate else "layerwise_decay"
        mistakes.append(f"{key}.{unused} is not used by train=[statistics]: there is no learning rate")
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


def _comparison_mistakes(settings: Settings) -> list[str]:
    comparison, key = settings.comparison, "comparison"
    if not comparison.arms:
        return []
    mistakes = []
    if settings.search.space:
        mistakes.append("comparison.arms and search.space both say what to run: one at a time")
    for name, value in (("stages", settings.stages), ("from_run", settings.from_run)):
        if value is not None:
            mistakes.append(f"{name}={value} is not used by a comparison, which runs all of its arms anew")
    names = list(comparison.arms)
    unknown = [name for name in comparison.only or [] if name not in names]
    if unknown:
        mistakes.append(f"{key}.only: no arm is called {', '.join(unknown)}; there are {', '.join(names)}")
    mistakes += [
        f"{key}.arms.{needed} is missing, which the other arms are compared with; there are {', '.join(names)}"
        for needed in dict.fromkeys((UNTOUCHED, comparison.reference))
        if needed not in names
    ]
    for name in ("seeds", "learning_rates"):
        values = getattr(comparison, name)
        if not values or len(set(values)) < len(values):
            mistakes.append(f"{key}.{name}={values}: give at least one, each once")
    if any(rate <= 0 for rate in comparison.learning_rates):
        mistakes.append(f"{key}.learning_rates={comparison.learning_rates}: must be greater than 0")
    if any(seed < 0 for seed in comparison.seeds):
        mistakes.append(f"{key}.seeds={comparison.seeds}: must be at least 0")
    if any(labels is not None and labels < 1 for labels in comparison.labels_per_class):
        mistakes.append(
            f"{key}.labels_per_class={comparison.labels_per_class}: must be at least 1, or null for all"
        )
    if comparison.labels_per_class and settings.data.labels_fraction is not None:
        mistakes.append(
            f"{key}.labels_per_class={comparison.labels_per_class} and data.labels_fraction="
            f"{settings.data.labels_fraction} both say how many images have labels: give one of them"
        )
    for name, arm in comparison.arms.items():
        mistakes += _arm_mistakes(f"{key}.arms.{name}", arm, settings)
    return mistakes


def _arm_mistakes(key: str, arm: ArmSettings, settings: Settings) -> list[str]:
    mistakes = []
    if arm.position != "none" and settings.placement.position == "none" and not settings.placement.on_input:
        mistakes.append(
            f"{key}.position={arm.position} needs a placement; placement=none inserts nothing: take "
            "placement=before_activation, or leave the arm out with comparison.only"
        )
    for name, stage in arm.schedule.items():
        mistakes += _selector_mistakes(f"{key}.schedule.{name}.train", stage.train)
        if STATISTICS in stage.train and len(stage.train) > 1:
            mistakes.append(
                f"{key}.schedule.{name}.train={stage.train}: statistics stands alone; make two stages of it"
            )
    shares = [stage.share for stage in arm.schedule.values() if stage.train != [STATISTICS]]
    if shares and abs(sum(shares) - 1) > 1e-6:
        mistakes.append(
            f"{key}: the shares of its stages are {sum(shares):g} in all; every arm gets 1, the same steps"
        )
    return mistakes


def registry_mistakes(settings: Settings) -> list[str]:
    """What MLflow's registry of models would refuse, found before anything is trained."""
    name, alias = settings.tracking.register_as, settings.tracking.alias
    mistakes = []
    if alias is not None and name is None:
        mistakes.append(
            f"tracking.alias={alias} needs a registered model to belong to: tracking.register_as=NAME"
        )
    if name is not None and (
        not name.strip() or name in (".", "..") or re.search("[/:]", name) or len(name) > 256
    ):
        mistakes.append(
            f"tracking.register_as={name}: a model's name has at most 256 characters, and no / and no :"
        )
    if alias is not None and (
        not re.fullmatch(r"[\w\-]{1,255}", alias)
        or alias.lower() == "latest"
        or re.fullmatch(r"[vV]\d+", alias)
    ):
        mistakes.append(
            f"tracking.alias={alias}: an alias is one word of letters, digits, underscores and hyphens, and "
            "neither latest nor a version's number such as v1"
        )
    if name is not None and not settings.tracking.log_models:
        mistakes.append(f"tracking.register_as={name} needs the networks in MLflow: tracking.log_models=true")
    if name is not None and settings.stages is not None and EVALUATE not in settings.stages:
        mistakes.append(
            f"tracking.register_as={name} registers the network that evaluate keeps, and stages={settings.stages} "
            "leaves it out"
        )
    return mistakes
