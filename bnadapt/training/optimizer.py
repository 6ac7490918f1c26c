"""The one place where networks are compiled: every optimizer, with rates of its own for layers and entries."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from bnadapt.config import StageSettings
from bnadapt.normalization.policy import without_weight_decay
from bnadapt.surgery.flow import trace
from bnadapt.surgery.kinds import is_weighted
from bnadapt.surgery.tree import layers_within, weights_by_path

SGD_MOMENTUM = 0.9
_KINDS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD}

Rate: TypeAlias = float | keras.optimizers.schedules.LearningRateSchedule


def compile_for(
    network: keras.Model,
    how: StageSettings,
    rate: Rate,
    *,
    from_logits: bool,
    drawn: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Compile a network with a new optimizer for a stage; set what trains before.

    Args:
        network: Its compiled state changes, and nothing else.
        how: Gives ``optimizer``, ``weight_decay`` and ``layerwise_decay``.
        rate: Of the layers next to the output; a number or a schedule.
        from_logits: Whether the outputs are logits.
        drawn: Which entries of some weights train, as from ``drawn_entries``.
    """
    factors = layer_factors(network, how.layerwise_decay)
    _compile(network, _optimizer(network, how, rate, factors, drawn or {}), from_logits)


def leave_stock_optimizer(network: keras.Model, how: StageSettings, *, from_logits: bool) -> None:
    """Compile with an optimizer of Keras' own where there is another, so that the saved network loads anywhere.

    Changes the compiled state; the moments that the optimizer had are gone, as every stage starts with new ones.
    """
    # It is wrapped where a network computes in float16.
    optimizer = getattr(network.optimizer, "inner_optimizer", network.optimizer)
    if not type(optimizer).__module__.startswith("keras."):
        _compile(network, _optimizer(network, how, how.learning_rate, {}, {}), from_logits)
        network.optimizer.build(network.trainable_variables)


def layer_factors(network: keras.Model, decay: float) -> dict[int, float]:
    """What the rate of each weight is multiplied by, by its id: decay ** (weighted layers behind its layer).

    The head has 1. Layers that are not weighted, such as batch normalization, so count as the weighted layer
    before them, and share its rate. Where paths to the output differ, the longest counts, so that no layer
    learns faster than what it feeds; of several calls of one layer, the one nearest to the output. Empty where
    decay is 1. Layer-wise rates: Howard and Ruder, 2018, "Universal Language Model Fine-tuning"
    (discriminative fine-tuning); Clark et al., 2020, "ELECTRA" (a factor per layer).

    Raises:
        SurgeryError: the network is no graph of layers.
    """
    if decay == 1:
        return {}
    behind: dict[int, int] = {}  # by step: weighted layers between it and the output
    found: dict[int, int] = {}
    for step in reversed(trace(network)):
        following = (behind[id(each)] + is_weighted(each.call.operation) for each in step.consumers)
        behind[id(step)] = max(following, default=0)
        if isinstance(step.call.operation, keras.Layer):
            for weight in step.call.operation.weights:
                found[id(weight)] = min(found.get(id(weight), behind[id(step)]), behind[id(step)])
    return {weight: decay**number for weight, number in found.items()}


def _compile(network: keras.Model, optimizer: keras.optimizers.Optimizer, from_logits: bool) -> None:
    # Keras does so itself only where float16 is the policy of the network as a whole, and not that of its layers.
    if any(layer.compute_dtype == "float16" for layer in layers_within(network)):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


def _optimizer(
    network: keras.Model,
    how: StageSettings,
    rate: Rate,
    factors: Mapping[int, float],
    drawn: Mapping[str, np.ndarray],
) -> keras.optimizers.Optimizer:
    kind = _KINDS[how.optimizer]
    if factors or drawn:
        weights = weights_by_path(network)
        masks = {id(weights[path]): keras.ops.convert_to_tensor(mask) for path, mask in drawn.items()}
        kind = _with_rates_of_its_own(kind, factors, masks)
    match how.optimizer:
        case "adam":
            return kind(rate)
        case "sgd":
            return kind(rate, momentum=SGD_MOMENTUM)
        case _:
            optimizer = kind(rate, weight_decay=how.weight_decay)
            # Before the optimizer is built: afterwards Keras ignores it.
            optimizer.exclude_from_weight_decay(var_list=without_weight_decay(network))
            return optimizer


def _with_rates_of_its_own(kind: Any, factors: Mapping[int, float], masks: Mapping[int, Any]) -> Any:
    """A subclass of an optimizer class that multiplies rates, and puts back every entry that a mask leaves out.

    It is the rate that is multiplied and not the gradient: Adam divides by the gradient's size, so that a
    factor on the gradient would cancel out. Both mappings are by id of the network's variables.
    """

    class RatesOfItsOwn(kind):
        def build(self, variables: Any) -> None:
            self.own_factors = [factors.get(id(each), 1.0) for each in variables]
            super().build(variables)

        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            variables = self._trainable_variables if trainable_variables is None else trainable_variables
            masked = [each for each in variables if id(each) in masks]
            # Read before the step, so that decay, constraints and the sign of a zero stay out as well.
            before = [keras.ops.copy(each) for each in masked]
            super().apply(grads, trainable_variables)
            for variable, value in zip(masked, before, strict=True):
                variable.assign(keras.ops.where(masks[id(variable)], variable, value))

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            factor = self.own_factors[self._get_variable_index(variable)]
            super().update_step(gradient, variable, learning_rate * factor)

        def _apply_weight_decay(self, variables: Any) -> None:
            if self.weight_decay is None:
                return
            for variable in variables:
                if self._use_weight_decay(variable):
                    factor = self.own_factors[self._get_variable_index(variable)]
                    rate = keras.ops.cast(self.learning_rate * factor * self.weight_decay, variable.dtype)
                    variable.assign_sub(variable * rate)

    return RatesOfItsOwn
