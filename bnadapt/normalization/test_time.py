"""Adaptation while predicting: a stream of unlabelled batches moves gamma and beta, guarded and revocable."""

import math
import numbers
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bnadapt.errors import DataError, SurgeryError
from bnadapt.normalization.batches import is_inputs, one_batch
from bnadapt.normalization.entropy import (
    check_classifier,
    check_head,
    check_outputs,
    entropy,
    probabilities,
)
from bnadapt.normalization.moments import (
    batch_statistics,
    trace_for_any_rows,
)
from bnadapt.normalization.reduction import channel_moments, normalized, received
from bnadapt.normalization.selection import batch_norm_layers, warn_of_hidden
from bnadapt.normalization.snapshot import restore, take
from bnadapt.surgery.graph import Call, replay
from bnadapt.surgery.sites import Patterns

MEMORY = 0.9  # of the running averages, per batch, as in SAR


class TestTimeAdaptation:
    """Predicts batch by batch, and lets gamma and beta follow the data without labels (TENT, Wang et al. 2021).

    Batch normalization normalizes with the statistics of each batch, and after each batch gamma and beta take
    a step towards less entropy of its predictions. A call changes gamma and beta of the chosen layers and
    nothing else of the network, and returns the outputs from before its step; ``reset`` takes all back.

    Guards, all counted:
        - A batch of fewer than ``smallest_batch`` samples makes no step, as its moments are noise; without
          ``prior`` it is normalized with the moving statistics instead (Niu et al. 2023 show how small
          batches break TENT).
        - Samples whose entropy is above ``unsure`` times ln(classes) are left out of the loss: their gradients
          are large and misleading (0.4 as in EATA, Niu et al. 2022, and SAR, Niu et al. 2023).
        - A loss, gradient or new weight that is not finite: the step is not made.
        - Recovery: gamma, beta and the optimizer go back to the start, and the batch is predicted anew, where
          the running mean of the entropy falls below ``collapsed_entropy`` times ln(classes) (SAR, Niu et al.
          2023, which takes 0.2 of ln(1000), about 0.03; the default is lower, as networks for few classes are
          rightly surer), where the predictions of late fall on few classes (``fewest_classes`` below), or
          where they are not finite although the images are.

    Attributes:
        batches: how many batches were predicted.
        steps_made: how many steps gamma and beta took.
        skipped: why steps were not made, and how often: "small batch", "all unsure", "not finite".
        left_out: samples that were too unsure to learn from.
        recoveries: how often the guards went back to the start.
    """

    __test__ = False  # no test, whatever the name says to pytest

    def __init__(
        self,
        model: keras.Model,
        *,
        learning_rate: float = 1e-3,
        steps: int = 1,
        prior: float = 0.0,
        layers: Patterns | None = None,
        from_logits: bool = True,
        smallest_batch: int = 16,
        unsure: float = 0.4,
        collapsed_entropy: float = 0.003,
        fewest_classes: float = 0.1,
    ) -> None:
        """Look at the network; changes nothing yet.

        Args:
            model: a Sequential or Functional classifier with batch normalization and one output.
            learning_rate: of Adam on gamma and beta.
            steps: of entropy per batch; 0 only normalizes with each batch (AdaBN, Li et al. 2016).
            prior: how many samples the moving statistics are worth beside those of a batch, as in
                ``reestimate`` (Schneider et al. 2020); 16 and more help small batches.
            layers: as in ``batch_norm_layers``; by default all. Others use their moving statistics.
            from_logits: whether the network returns logits or probabilities.
            smallest_batch: samples that a step needs.
            unsure: share of ln(classes), the largest entropy to learn from.
            collapsed_entropy: share of ln(classes), the smallest running entropy that is believed; 0: any.
            fewest_classes: how many classes the predictions of late must at least be spread over, as a share
                (of all beyond the first, or of the samples if they are fewer); the spread is exp(entropy) of
                the mean prediction. 0 for streams in which one class comes at a time.

        Raises:
            ModelError: the network has not one output [samples, classes], or its last activation is not what
                ``from_logits`` says.
            SurgeryError: no such layer, no gamma or beta to train, or an argument out of range.
        """
        _check_arguments(
            {"steps": steps, "smallest_batch": smallest_batch},
            {"learning_rate": learning_rate, "prior": prior},
            {"unsure": unsure, "collapsed_entropy": collapsed_entropy, "fewest_classes": fewest_classes},
        )
        check_classifier(model)
        check_head(model, from_logits=from_logits)
        self._model = model
        self._chosen = batch_norm_layers(model, layers)
        warn_of_hidden(model, layers)
        self._prior, self._steps, self._from_logits = prior, steps, from_logits
        self._smallest_batch = smallest_batch
        self._unsure, self._fewest_classes = unsure, fewest_classes
        self._collapsed_entropy = collapsed_entropy
        affine = {
            path: [name for name in ("gamma", "beta") if getattr(layer, name) is not None]
            for path, layer in self._chosen.items()
        }
        self._start = take(self._chosen, {path: names for path, names in affine.items() if names})
        self._weights = [
            getattr(self._chosen[path], name) for path in self._start for name in self._start[path]
        ]
        if steps and not self._weights:
            raise SurgeryError("no chosen layer has gamma or beta to adapt: choose others, or steps=0")
        self._optimizer = keras.optimizers.Adam(learning_rate)
        self._optimizer.build(self._weights)
        self._optimizer_start = [keras.ops.convert_to_numpy(each) for each in self._optimizer.variables]
        self._functions = {
            (by_batch, gradients): tf.function(
                self._compiled(by_batch=by_batch, gradients=gradients), autograph=False, reduce_retracing=True
            )
            for by_batch in (True, False)
            for gradients in (True, False)
        }
        self._traced: set[tuple[bool, bool]] = set()
        self._apply = tf.function(self._applied, autograph=False)
        self.batches = self.steps_made = self.left_out = self.recoveries = 0
        self.skipped: Counter[str] = Counter()
        self._forget()

    def __call__(self, images: Any) -> np.ndarray:
        """Predict one batch and adapt to it; returns the outputs [samples, classes] of before the step.

        Changes gamma and beta of the chosen layers.

        Args:
            images: one batch, as the network is called with it; several inputs as a dictionary, list or
                tuple. Of another tuple only the first part is used, so that labels may be there.

        Raises:
            ModelError: the outputs are not what ``from_logits`` says.
            DataError: the batch is empty, does not fit the inputs of the network, or is no single batch.
        """
        inputs, rows = _one_batch(self._model, images)
        large = rows >= self._smallest_batch
        by_batch = large or self._prior > 0
        moved = self._steps_since_start > 0 or self._steps > 1  # whether the outputs are of moved weights
        if self._steps and large:
            for _ in range(self._steps):
                outputs, _, used, gradients, finite = self._run(inputs, by_batch=True, gradients=True)
                self._step(bool(finite), rows - int(used), rows, gradients)
        else:
            outputs = self._run(inputs, by_batch=by_batch)[0]
            if self._steps:
                self.skipped["small batch"] += 1
        self.batches += 1
        if self._collapsed(inputs, outputs) and moved:
            self.reset()
            self.recoveries += 1
            outputs = self._run(inputs, by_batch=by_batch)[0]
        return outputs.numpy()

    def reset(self) -> list[str]:
        """Put gamma and beta back to the last bit, forget what was learned, and return the layers' paths.

        Changes the network. The counters go on.
        """
        paths = restore(self._model, self._start)
        for variable, value in zip(self._optimizer.variables, self._optimizer_start, strict=True):
            variable.assign(value)
        self._forget()
        return paths

    def _forget(self) -> None:
        self._running_entropy: float | None = None
        self._running_prediction: np.ndarray | None = None
        self._seen = 0.0
        self._steps_since_start = 0

    def _run(self, inputs: Any, *, by_batch: bool, gradients: bool = False) -> Any:
        key = (by_batch, gradients)
        if key not in self._traced:
            trace_for_any_rows(self._functions[key], self._model, inputs)
            self._traced.add(key)
        result = self._functions[key](inputs)
        if not self.batches:
            check_outputs(result[0], from_logits=self._from_logits)
        return result

    def _compiled(self, *, by_batch: bool, gradients: bool) -> Any:
        def of_batch(inputs: Any) -> tuple[Any, ...]:
            if not gradients:
                return (
                    _outputs(self._model, self._chosen if by_batch else {}, inputs, self._prior, fused=True),
                )
            values = [weight.value for weight in self._weights]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                outputs = _outputs(self._model, self._chosen, inputs, self._prior, fused=False)
                each = entropy(outputs, from_logits=self._from_logits)
                sure = each < self._unsure * _most(outputs)
                used = tf.math.count_nonzero(sure)
                chosen = tf.where(sure, each, tf.zeros_like(each))
                loss = tf.reduce_sum(chosen) / tf.cast(tf.maximum(used, 1), each.dtype)
            slopes = tape.gradient(loss, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return outputs, loss, used, slopes, _all_finite([loss, *slopes])

        return of_batch

    def _applied(self, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Take the optimizer's step; whether gamma and beta are finite after it."""
        self._optimizer.apply(gradients, self._weights)
        return _all_finite([weight.value for weight in self._weights])

    def _step(self, finite: bool, left_out: int, rows: int, gradients: list[tf.Tensor]) -> None:
        """One step of gamma and beta, or the reason why not."""
        if not finite:
            self.skipped["not finite"] += 1
            return
        self.left_out += left_out
        if left_out == rows:
            self.skipped["all unsure"] += 1
            return
        held = [*self._weights, *self._optimizer.variables]
        before = [tf.identity(each.value) for each in held]  # stays where it is
        if not self._apply(gradients):
            for variable, value in zip(held, before, strict=True):
                variable.assign(value)
            self.skipped["not finite"] += 1
            return
        self.steps_made += 1
        self._steps_since_start += 1

    def _collapsed(self, inputs: Any, outputs: tf.Tensor) -> bool:
        """Whether running entropy and running prediction, with this batch, are beyond belief."""
        predicted = probabilities(outputs, from_logits=self._from_logits).numpy().astype(np.float64)
        if not np.isfinite(predicted).all():
            return _finite(keras.tree.flatten(inputs))  # else it is the data's fault, and will pass
        mean_entropy = float(np.mean(entropy(outputs, from_logits=self._from_logits).numpy()))
        keep = MEMORY if self._running_prediction is not None else 0.0
        previous = 0.0 if self._running_prediction is None else self._running_prediction
        self._running_prediction = previous * keep + predicted.mean(0) * (1 - keep)
        self._running_entropy = (self._running_entropy or 0.0) * keep + mean_entropy * (1 - keep)
        self._seen = self._seen * MEMORY + len(predicted)
        spread = math.exp(_entropy_of(self._running_prediction))
        most = min(len(self._running_prediction), self._seen)
        few = spread < 1 + self._fewest_classes * (most - 1)
        return few or self._running_entropy < self._collapsed_entropy * math.log(
            len(self._running_prediction)
        )


def _outputs(
    model: keras.Model, by_batch: Mapping[str, Any], inputs: Any, prior: float, *, fused: bool
) -> tf.Tensor:
    """The network's outputs in inference, the given layers normalizing with the batch."""
    rows = tf.shape(next(each for each in keras.tree.flatten(inputs) if each is not None))[0]

    def call(each: Call, *args: Any, **kwargs: Any) -> Any:
        layer = each.operation
        if each.path not in by_batch:
            return layer(*args, **kwargs)
        values, mask = received(layer, args, kwargs)
        _, mean, variance = channel_moments(values, layer.axis, mask, differentiable=not fused)
        used = batch_statistics(layer, mean, variance, rows, prior=prior)
        return normalized(layer, values, *used, mask, fused=fused)

    with keras.StatelessScope():  # nothing that a layer assigns or adds as a loss is kept
        return keras.tree.flatten(replay(model, inputs, call))[0]


def _one_batch(model: keras.Model, images: Any) -> tuple[Any, int]:
    """The batch as tensors, and its number of rows."""
    if isinstance(images, tf.data.Dataset | Iterator) or images is None:
        raise DataError(
            f"images={images!r}: adaptation takes one batch at a time, as in `for batch in dataset: adapt(batch)`"
        )
    tensors, rows = one_batch(model, list(images) if is_inputs(model, images) else images)
    if rows == 0:
        raise DataError("an empty batch: there is nothing to predict")
    return tensors, rows


def _most(outputs: tf.Tensor) -> float:
    return math.log(max(outputs.shape[-1], 2))


def _all_finite(tensors: list[Any]) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(each)) for each in tensors])


def _finite(tensors: list[Any]) -> bool:
    return all(np.isfinite(keras.ops.convert_to_numpy(each)).all() for each in tensors if each is not None)


def _entropy_of(distribution: np.ndarray) -> float:
    positive = distribution[distribution > 0]
    return float(-(positive * np.log(positive)).sum())


def _check_arguments(
    counts: Mapping[str, Any], amounts: Mapping[str, Any], shares: Mapping[str, Any]
) -> None:
    for named, kind, most, words in (
        (counts, numbers.Integral, math.inf, "a whole number, 0 or more"),
        (amounts, numbers.Real, math.inf, "a number, 0 or more"),
        (shares, numbers.Real, 1, "a share from 0 to 1"),
    ):
        for name, value in named.items():
            if not isinstance(value, kind) or not 0 <= float(value) <= most or math.isinf(value):
                raise SurgeryError(f"{name}={value!r}: must be {words}")
