"""Rates of their own for layers and entries, against the same steps in NumPy's float64."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bnadapt.config import StageSettings
from bnadapt.normalization.policy import drawn_entries, train_only
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import find_sites
from bnadapt.surgery.tree import weights_by_path
from bnadapt.training.optimizer import Rate, compile_for, layer_factors, leave_stock_optimizer

RATE, WEIGHT_DECAY, STEPS = 0.01, 0.2, 3


def network(**settings: Any) -> keras.Model:
    keras.utils.set_random_seed(4)
    plain = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="relu", name="first", **settings),
            layers.Dense(4, activation="relu", name="second"),
            layers.Dense(3, name="head"),
        ]
    )
    return insert_batch_norm(plain, find_sites(plain))


def gradients_of(variables: list[Any], step: int) -> list[np.ndarray]:
    """Made up, and of very different sizes, which Adam divides out and plain scaling would not."""
    random = np.random.default_rng(step)
    return [
        10.0 ** random.uniform(-3, 1) * random.normal(0, 1, each.shape).astype("float32")
        for each in variables
    ]


def take_steps(model: keras.Model) -> None:
    variables = model.trainable_variables

    @tf.function  # as in fit
    def apply(gradients: list[Any]) -> None:
        model.optimizer.apply(gradients, variables)

    for step in range(STEPS):
        apply([keras.ops.convert_to_tensor(each) for each in gradients_of(variables, step)])


def reference(
    values: Mapping[str, np.ndarray],
    trainable: list[str],
    shapes: list[Any],
    optimizer: str,
    rates: list[float],
    factors: Mapping[str, float],
    drawn: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The same steps written out: Adam (Kingma and Ba), decoupled decay (Loshchilov and Hutter), momentum 0.9."""
    result = {path: value.astype("float64") for path, value in values.items()}
    first = {path: np.zeros(values[path].shape) for path in trainable}
    second = {path: np.zeros(values[path].shape) for path in trainable}
    for step in range(STEPS):
        for path, gradient in zip(trainable, gradients_of(shapes, step), strict=True):
            rate = rates[step] * factors[path]
            gradient = gradient.astype("float64")
            value = result[path]
            if optimizer == "adamw" and path.endswith("kernel"):
                value = value - rate * WEIGHT_DECAY * value
            if optimizer == "sgd":
                first[path] = 0.9 * first[path] - rate * gradient
                value = value + first[path]
            else:
                first[path] = 0.9 * first[path] + 0.1 * gradient
                second[path] = 0.999 * second[path] + 0.001 * gradient**2
                size = rate * np.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
                value = value - size * first[path] / (np.sqrt(second[path]) + 1e-7)
            result[path] = np.where(drawn[path], value, result[path]) if path in drawn else value
    return result


EXPECTED_LAYERS = {"first": 2, "first_inserted_bn": 2, "second": 1, "second_inserted_bn": 1, "head": 0}


@pytest.mark.parametrize(
    ("what", "decay", "scheduled"),
    [
        (["all"], 1.0, False),
        (["all"], 0.5, True),
        (["2 per channel", "head", "batch_norm"], 1.0, True),
        (["2 per channel", "head", "batch_norm"], 0.5, False),
    ],
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_steps_are_those_of_the_formulas(
    optimizer: str, what: list[str], decay: float, scheduled: bool
) -> None:
    model = network()
    train_only(model, what)
    drawn = drawn_entries(model, what, seed=1)
    how = StageSettings(optimizer=optimizer, layerwise_decay=decay, weight_decay=WEIGHT_DECAY)
    rate: Rate = keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.7) if scheduled else RATE
    compile_for(model, how, rate, from_logits=True, drawn=drawn)
    weights = weights_by_path(model)
    start = {path: np.array(weight) for path, weight in weights.items()}
    order = {id(weight): path for path, weight in weights.items()}
    trainable = [order[id(each)] for each in model.trainable_variables]
    shapes = [start[path] for path in trainable]
    take_steps(model)
    rates = [RATE * 0.7**step if scheduled else RATE for step in range(STEPS)]
    factors = {path: decay ** EXPECTED_LAYERS[path.split("/")[0]] for path in trainable}
    expected = reference(start, trainable, shapes, optimizer, rates, factors, drawn)
    for path, weight in weights.items():
        change = np.array(weight).astype("float64") - start[path]
        wanted = expected[path] - start[path]
        # Where nothing may change, not a bit may; elsewhere float32 rounds each step.
        assert (change[wanted == 0] == 0).all(), path
        np.testing.assert_allclose(change, wanted, rtol=2e-4, atol=2e-6, err_msg=path)
    assert bool(drawn) == (what != ["all"])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_what_was_not_drawn_keeps_its_bits_whatever_happens_to_the_rest(optimizer: str) -> None:
    # A constraint that would rescale whole columns, a zero with a sign, and gradients that are no numbers.
    model = network(kernel_constraint=keras.constraints.UnitNorm())
    kernel = model.get_layer("first").kernel
    start = np.where(np.arange(20).reshape(5, 4) % 3 == 0, -0.0, np.array(kernel)).astype("float32")
    kernel.assign(start)
    train_only(model, "1 per channel")
    drawn = drawn_entries(model, "1 per channel", seed=1)
    how = StageSettings(optimizer=optimizer)
    compile_for(model, how, RATE, from_logits=True, drawn=drawn)
    variables = model.trainable_variables
    model.optimizer.apply([keras.ops.full(each.shape, np.nan) for each in variables], variables)
    outside = ~drawn["first/kernel"]
    assert np.array(kernel)[outside].tobytes() == start[outside].tobytes()
    assert np.isnan(np.array(kernel)[~outside]).all()


def residual() -> keras.Model:
    """Two ways from "stem" to the output, a layer called twice, a nested model, and one on the input."""
    keras.utils.set_random_seed(0)
    i = keras.Input((4,), name="i")
    x = layers.BatchNormalization(name="on_input")(i)
    x = layers.Dense(4, name="stem")(x)
    shared = layers.Dense(4, name="shared")
    y = layers.BatchNormalization(name="after_shared")(shared(shared(x)))
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(4, name="deep")(inner_input), name="inner")
    x = layers.Add()([x, inner(y)])
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(i, layers.Dense(3, name="head")(x))


def test_factors_count_weighted_layers_on_the_longest_way_to_the_output() -> None:
    model = residual()
    factors = layer_factors(model, 0.5)
    by_layer = {
        path.rpartition("/")[0]: factors[id(weight)] for path, weight in weights_by_path(model).items()
    }
    assert by_layer == {
        "head": 1,
        "norm": 0.5,
        "inner/deep": 0.5,
        "after_shared": 0.25,
        "shared": 0.25,
        "stem": 0.5**4,
        "on_input": 0.5**5,
    }
    assert len(factors) == len(model.weights)
    assert layer_factors(model, 1.0) == {}


def test_without_rates_of_its_own_the_optimizer_is_one_of_keras() -> None:
    model = network()
    compile_for(model, StageSettings(), RATE, from_logits=True)
    assert type(model.optimizer) is keras.optimizers.Adam
    before = model.optimizer
    leave_stock_optimizer(model, StageSettings(), from_logits=True)
    assert model.optimizer is before


def test_a_network_saved_after_training_loads_without_this_package(tmp_path: Path) -> None:
    model = network()
    how = StageSettings(layerwise_decay=0.5, optimizer="adamw")
    compile_for(model, how, RATE, from_logits=True)
    assert type(model.optimizer).__module__.startswith("bnadapt.")
    model.fit(np.ones((8, 5)), np.zeros(8), verbose=0)
    leave_stock_optimizer(model, how, from_logits=True)
    model.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    assert type(again.optimizer) is keras.optimizers.AdamW
    again.fit(np.ones((8, 5)), np.zeros(8), verbose=0)


def test_nor_with_the_wrapper_that_keras_adds_for_half_precision() -> None:
    model = network()
    how = StageSettings(layerwise_decay=0.5)
    compile_for(model, how, RATE, from_logits=True)
    model.optimizer = keras.optimizers.LossScaleOptimizer(model.optimizer)
    leave_stock_optimizer(model, how, from_logits=True)
    assert type(model.optimizer) is keras.optimizers.Adam
