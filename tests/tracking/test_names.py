"""MLflow accepts every name that passes through here."""

import html
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from bnadapt.config import BaselineSettings, StageSettings, SwitchSettings
from bnadapt.evaluation.results import Diagnosis, LayerGap, LayerShift
from bnadapt.tracking.names import (
    clean_key,
    cut,
    description,
    diagnosis_metrics,
    filter_tags,
    finite,
    in_order,
    parameters_for_mlflow,
    shift_metrics,
    stage_label,
    stage_name,
    stage_parameters,
)


@given(st.text(max_size=400))
def test_any_text_becomes_a_key_that_mlflow_accepts(text: str) -> None:
    key = clean_key(text)
    _validate_metric_name(key)
    _validate_param_name(key)
    assert 1 <= len(key) <= 250


@pytest.mark.parametrize(
    ("key", "cleaned"),
    [
        ("val/1_baseline", "val/1_baseline"),
        ("schedule.adapt.learning_rate", "schedule.adapt.learning_rate"),
        ("units[0]", "units_0_"),
        ("f(x)", "f_x_"),
        ("/rooted", "rooted"),
        ("../up", "up"),
        ("äöü", "äöü"),
    ],
)
def test_keys_stay_readable(key: str, cleaned: str) -> None:
    assert clean_key(key) == cleaned


def test_long_values_are_cut_visibly() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 6) == "abc..."
    assert len(parameters_for_mlflow({"layers": "x" * 10_000})["layers"]) == 6000


def test_infinities_become_nan() -> None:
    assert all(math.isnan(finite(value)) for value in (math.inf, -math.inf, math.nan))
    assert finite(0.25) == 0.25


def test_label_and_name_are_inverse() -> None:
    assert stage_label(3, "bn_then_all") == "3_bn_then_all"
    assert stage_name("3_bn_then_all") == "bn_then_all"


def test_a_diagnosis_in_four_numbers() -> None:
    layers = (
        LayerGap("one", 30, mean=0.25, deviation=0.5, gammas_near_zero=0.1),
        LayerGap("two", 10, mean=0.125, deviation=0.75, gammas_near_zero=0.5),
        LayerGap("three", 10, mean=0.0, deviation=0.0, gammas_near_zero=math.nan),
    )
    assert diagnosis_metrics(Diagnosis(layers, 64, inference_accuracy=0.9, batch_accuracy=0.8)) == {
        "statistics_gap": 0.25,
        "gammas_near_zero": pytest.approx(0.2),
        "inference_mode_accuracy": 0.9,
        "batch_mode_accuracy": 0.8,
    }
    without_gamma = diagnosis_metrics(Diagnosis(layers[2:], 64, 0.9, 0.8))
    assert math.isnan(without_gamma["gammas_near_zero"])


def test_a_shift_in_two_numbers() -> None:
    shifts = [LayerShift("one", 3, 0.5, 0.1, 0.1), LayerShift("two", 3, 1.5, 0.1, 0.1)]
    assert shift_metrics(shifts) == {"statistics_shift_mean": 1.0, "statistics_shift_largest": 1.5}


@pytest.mark.parametrize("command", ["bnadapt data=digits", "bnadapt 'data.path=a`b``c'", "`"])
def test_a_description_shows_the_command_as_it_is(command: str) -> None:
    shown = MarkdownIt().render(description(command, "**It helped.**"))
    assert shown.startswith("<p><strong>It helped.</strong></p>\n<p><code>")
    assert f"<code>{html.escape(command, quote=False)}</code>" in shown
    assert MarkdownIt().render(description(command)).startswith("<p><code>")


def test_a_stage_says_what_matters_and_what_is_unusual() -> None:
    usual = {"train": "batch_norm+head", "epochs": "5", "learning_rate": "0.001", "optimizer": "adam"}
    how = StageSettings(train=["batch_norm", "head"])
    assert stage_parameters(how) == usual
    unusual = StageSettings(train=["batch_norm", "head"], steps=300, decay="cosine", patience=2)
    assert stage_parameters(unusual) == usual | {"steps": "300", "decay": "cosine", "patience": "2"}
    assert stage_parameters(StageSettings(), StageSettings(learning_rate=0.3, steps=7)) == {
        "train": "all, all",
        "epochs": "5, 5",
        "steps": "none, 7",
        "learning_rate": "0.001, 0.3",
        "optimizer": "adam, adam",
    }
    assert stage_parameters() == {}
    assert stage_parameters(BaselineSettings())["epochs"] == "10"
    switched = stage_parameters(StageSettings(batch_norm={"dense.*": SwitchSettings(affine=False)}))
    assert "dense.*" in switched["batch_norm"]


def test_filters_are_what_a_run_is_about() -> None:
    assert filter_tags({"data": "mnist", "model": "cnn 32", "seed": "1"}, {}) == {
        "data": "mnist",
        "model": "cnn 32",
    }
    assert filter_tags(
        {"data": "mnist", "model": "cnn 32"}, {"data": "tfds", "model": "cnn", "sweep": "x"}
    ) == {
        "data": "mnist",
        "model": "cnn",
        "sweep": "x",
    }


def test_what_runs_are_compared_by_comes_first() -> None:
    metrics = {"seconds": 1.0, "loss": 0.5, "accuracy": 0.9, "val_accuracy": 0.8}
    assert list(in_order(metrics).items()) == [
        ("val_accuracy", 0.8),
        ("accuracy", 0.9),
        ("loss", 0.5),
        ("seconds", 1.0),
    ]
