"""MLflow accepts every name that passes through here."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name

from bnadapt.tracking.names import clean_key, cut, finite, parameters_for_mlflow, stage_label, stage_name


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
