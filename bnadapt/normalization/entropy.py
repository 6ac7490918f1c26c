"""How unsure predictions are: entropy, in a form through which gradients flow everywhere."""

import math
from typing import Any

import keras
import tensorflow as tf

from bnadapt.errors import ModelError
from bnadapt.surgery.flow import trace
from bnadapt.surgery.graph import outputs_of

SUM_IS_ONE = 1e-2  # as wide as half precision needs
SMALLEST = 1e-30  # of probabilities: below it they add nothing, and their slopes would not be finite

PROBABILITIES = ("softmax", "sigmoid", "hardsigmoid")
PASS_ON = (keras.layers.Identity, keras.layers.Dropout, keras.layers.Reshape, keras.layers.Flatten)


def entropy(outputs: Any, *, from_logits: bool = True) -> tf.Tensor:
    """Entropy of every sample's prediction in nats, shape [samples]; the gradient is finite everywhere.

    It is 0 for a prediction without doubt and ln(classes) for none at all. Classes that are impossible
    (a logit of minus infinity, a probability of 0) add nothing.

    Args:
        outputs: logits or probabilities [samples, classes]; [samples, 1] is the second of two classes.
        from_logits: what the outputs are.
    """
    log_probabilities = _log_probabilities(outputs, from_logits)
    return -tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, -1)


def probabilities(outputs: Any, *, from_logits: bool = True) -> tf.Tensor:
    """Probabilities [samples, classes], with two classes where there is one output; arguments as above."""
    return tf.exp(_log_probabilities(outputs, from_logits))


def check_classifier(model: keras.Model) -> None:
    """Raise ModelError unless the network has one output, and that is [samples, classes]."""
    shapes = [tuple(each.shape) for each in keras.tree.flatten(outputs_of(model))]
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ModelError(
            f"the model '{model.name}' has outputs of shape {', '.join(map(str, shapes))}: entropy is that of one "
            "output [samples, classes]"
        )


def check_head(model: keras.Model, *, from_logits: bool) -> None:
    """Raise ModelError where the last activation in the graph shows that outputs are not what they are said to be."""
    name, classes = _last_activation(model), keras.tree.flatten(outputs_of(model))[0].shape[-1]
    if name not in (None, "softmax") and classes != 1:
        raise ModelError(
            f"the model '{model.name}' ends in the activation {name} with {classes} outputs, which are no "
            "distribution over classes: entropy is that of logits, of a softmax, or of a single sigmoid"
        )
    if from_logits and name is not None:
        raise ModelError(
            f"the model '{model.name}' ends in the activation {name}, whose outputs are probabilities and no "
            "logits: pass from_logits=False"
        )


def check_outputs(outputs: tf.Tensor, *, from_logits: bool) -> None:
    """Raise ModelError where outputs [samples, classes] cannot be what they are said to be."""
    inside = bool(tf.reduce_all((outputs >= 0) & (outputs <= 1)))
    one = outputs.shape[-1] == 1
    sums = bool(tf.reduce_all(tf.abs(tf.reduce_sum(tf.cast(outputs, tf.float32), -1) - 1) < SUM_IS_ONE))
    if not from_logits and not (inside and (one or sums)):
        raise ModelError("the outputs are no probabilities: if they are logits, pass from_logits=True")
    if from_logits and inside and sums and not one:
        raise ModelError("the outputs are probabilities, which logits are not: pass from_logits=False")


def _last_activation(model: keras.Model) -> str | None:
    """The name of the activation that makes the outputs probabilities; what passes values on is looked through."""
    step = next((each for each in trace(model) if each.is_output), None)
    while step is not None:
        operation = step.call.operation
        activation = getattr(operation, "activation", None)
        name = getattr(activation, "__name__", type(activation or operation).__name__)
        if name.lower().replace("_", "") in PROBABILITIES:
            return str(name.lower())
        passes_on = isinstance(operation, PASS_ON) or name in ("Cast", "Reshape")
        linear_activation = isinstance(operation, keras.layers.Activation) and name == "linear"
        step = step.sources[0] if step.sources and (passes_on or linear_activation) else None
    return None


def _log_probabilities(outputs: Any, from_logits: bool) -> tf.Tensor:
    outputs = tf.convert_to_tensor(outputs)
    if outputs.dtype.size < 4:
        outputs = tf.cast(outputs, tf.float32)
    one = outputs.shape[-1] == 1
    if from_logits:
        logits = tf.concat([tf.zeros_like(outputs), outputs], -1) if one else outputs
        return tf.maximum(tf.nn.log_softmax(logits), math.log(SMALLEST))
    shares = tf.concat([1 - outputs, outputs], -1) if one else outputs
    return tf.math.log(tf.maximum(shares, SMALLEST))
