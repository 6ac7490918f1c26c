"""Mean and variance of what batch normalization layers receive, pooled exactly over any cut into batches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from bnadapt.errors import DataError, ModelError, SurgeryError
from bnadapt.normalization.batches import Samples, input_batches
from bnadapt.normalization.reduction import channel_moments, normalized, received
from bnadapt.normalization.selection import batch_norm_layers
from bnadapt.surgery.graph import Call, inputs_of, replay
from bnadapt.surgery.sites import Patterns

Parts = Literal["both", "mean", "variance"]


@dataclass(frozen=True)
class Moments:
    """Moments per channel.

    Attributes:
        count: values per channel: samples times positions times calls.
        mean: float64 [channels].
        variance: float64 [channels], biased (divided by count), as Keras' batch normalization uses it.
        samples: how many samples the values come from, whatever their positions and the layer's calls.
    """

    count: int
    mean: np.ndarray
    variance: np.ndarray
    samples: int


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of both sets of values together, by the formula of Chan, Golub and LeVeque (1979).

    Unlike a mean of squares minus a squared mean it does not cancel where the mean is large.
    """
    count, samples = first.count + second.count, first.samples + second.samples
    if count == 0:
        return Moments(0, first.mean, first.variance, samples)
    share = second.count / count
    difference = second.mean - first.mean
    mean = first.mean + difference * share
    variance = first.variance * (1 - share) + second.variance * share + difference**2 * share * (1 - share)
    return Moments(count, mean, variance, samples)


def blend(source: Any, target: Any, *, prior: float, samples: Any) -> Any:
    """N / (N + n) source + n / (N + n) target, N being the prior and n the samples (Schneider et al. 2020)."""
    share = samples / (prior + samples)
    return source * (1 - share) + target * share


@dataclass(frozen=True, eq=False)
class Pass:
    """What batch normalization normalizes with while it is measured; layers that are not named: as in inference.

    Attributes:
        by_batch: paths of those that normalize with the moments of their own batch.
        given: fixed moments by path, mean and variance.
        prior: of the moments of a batch of n rows, the moving statistics take the share prior / (prior + n).
        parts: which of the batch's moments are used; the other ones are the moving statistics.
    """

    by_batch: frozenset[str] = frozenset()
    given: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    prior: float = 0.0
    parts: Parts = "both"


def measure(
    model: keras.Model,
    batches: Any,
    layers: Patterns | None = None,
    *,
    samples: Samples = None,
    normalize_with: Literal["moving", "batch"] = "moving",
    batch_size: int = 256,
) -> dict[str, Moments]:
    """Moments of the input of each named batch normalization layer; the model stays exactly as it was.

    Every batch is reduced where the activations are (see ``channel_moments``) and merged with the others in
    float64: the result does not depend on how the samples are cut into batches or ordered, and the memory
    not on their number. A layer that is called several times is pooled over its calls. Masked positions do
    not count. The network runs in inference, dropout off.

    Args:
        model: a Sequential or Functional network with batch normalization.
        batches: an array [samples, ...], or for a network with several inputs a dictionary, list or tuple
            of them, as ``predict`` takes it; or an iterable of batches, a ``tf.data.Dataset`` among them; of a
            batch that is a tuple only its first part is used, so that labels may be there.
        layers: as in ``batch_norm_layers``.
        samples: use so many samples, from the beginning; None or "all": all.
        normalize_with: "moving": every batch normalization uses its moving statistics. "batch": those that
            are measured normalize with the moments of their own batch, as in training, so that one pass
            measures all of them at their new inputs (precise batch normalization, Wu and Johnson, 2021); the
            batch's size then matters.
        batch_size: rows at once where ``batches`` is an array or holds arrays.

    Raises:
        DataError: there was no sample, or for some layer only masked ones; the batches do not fit the inputs
            of the network; ``samples`` or ``batch_size`` is no whole number above 0.
        ModelError: an input of batch normalization was not finite, or too large to have a variance.
        SurgeryError: no such layer, or a network that is no graph of layers.
    """
    if normalize_with not in ("moving", "batch"):
        raise SurgeryError(f"normalize_with={normalize_with!r}: choose moving or batch")
    chosen = batch_norm_layers(model, layers)
    how = Pass(by_batch=frozenset(chosen) if normalize_with == "batch" else frozenset())
    return measure_pass(model, batches, list(chosen), how, samples=samples, batch_size=batch_size)


def measure_pass(
    model: keras.Model, images: Any, paths: list[str], how: Pass, *, samples: Samples, batch_size: int
) -> dict[str, Moments]:
    """Moments of the inputs of the layers at these paths in one pass over the images; see ``measure``."""
    reduce = _Reduction(model, paths, how)
    totals: dict[str, Moments] = {}
    for inputs, rows in input_batches(images, model=model, batch_size=batch_size, samples=samples):
        for path, part in reduce(inputs, rows).items():
            if not (np.isfinite(part.mean).all() and np.isfinite(part.variance).all()):
                raise ModelError(_why_not_finite(path, *reduce.extent(inputs, path)))
            totals[path] = merge(totals[path], part) if path in totals else part
    if not totals:
        raise DataError("no images to measure: the data set or iterable is empty")
    unseen = [path for path in paths if totals[path].count == 0]
    if unseen:
        raise DataError(
            f"the batch normalization '{', '.join(unseen)}' received masked positions only, which do not count"
        )
    return {path: totals[path] for path in paths}


def _why_not_finite(path: str, finite: bool, largest: float) -> str:
    if finite:
        return (
            f"the input of the batch normalization '{path}' reaches {largest:.3g} for some images: it is finite, "
            "but its variance is not. Check the scale of the images"
        )
    return (
        f"the input of the batch normalization '{path}' is not finite for some images: check the images for "
        "NaN, and whether training diverged"
    )


See = Callable[[Call, tf.Tensor, Any, tuple[tf.Tensor, tf.Tensor, tf.Tensor]], None]


class _Reduction:
    """A compiled function from one batch to the moments of every layer, fetched together."""

    def __init__(self, model: keras.Model, paths: list[str], how: Pass) -> None:
        self._model = model
        self._how = how
        self._measured = frozenset(paths)
        self._order: list[tuple[str, int]] = []
        self._function = tf.function(self._of_batch, reduce_retracing=True, autograph=False)
        self._traced = False

    def __call__(self, inputs: Any, rows: int) -> dict[str, Moments]:
        if not self._traced:
            trace_for_any_rows(self._function, self._model, inputs)
            self._traced = True
        counts, means, variances = (each.numpy() for each in self._function(inputs))
        found: dict[str, Moments] = {}
        start = 0
        for (path, channels), count in zip(self._order, counts, strict=True):
            part = slice(start, start + channels)
            start += channels
            # The samples of a layer that is called again are still the same ones.
            moments = Moments(int(count), means[part], variances[part], 0 if path in found else rows)
            found[path] = merge(found[path], moments) if path in found else moments
        return found

    def _of_batch(self, inputs: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        self._order = []
        parts: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]] = []

        def keep(
            each: Call, values: tf.Tensor, _: Any, moments: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
        ) -> None:
            self._order.append((each.path, values.shape[each.operation.axis]))
            parts.append(moments)

        self._replay(inputs, keep)
        counts, means, variances = zip(*parts, strict=True)
        return tf.stack(counts), tf.concat(means, 0), tf.concat(variances, 0)

    def extent(self, inputs: Any, path: str) -> tuple[bool, float]:
        """Whether all values that one layer receives are finite, and the largest magnitude among them."""
        finite, largest = True, 0.0

        def look(each: Call, values: tf.Tensor, mask: Any, _: Any) -> None:
            nonlocal finite, largest
            if each.path == path:
                seen = values if mask is None else tf.boolean_mask(values, mask)
                finite = finite and bool(tf.reduce_all(tf.math.is_finite(seen)))
                largest = max(largest, float(tf.reduce_max(tf.abs(seen))))

        self._replay(inputs, look)
        return finite, largest

    def _replay(self, inputs: Any, see: See) -> None:
        """Run the network on a batch and show every call of a measured layer."""
        rows = tf.shape(next(each for each in keras.tree.flatten(inputs) if each is not None))[0]

        def call(each: Call, *args: Any, **kwargs: Any) -> Any:
            layer, path = each.operation, each.path
            by_batch = path in self._how.by_batch
            if path not in self._measured and not by_batch and path not in self._how.given:
                return layer(*args, **kwargs)
            values, mask = received(layer, args, kwargs)
            count, mean, variance = channel_moments(values, layer.axis, mask)
            if path in self._measured:
                see(each, values, mask, (count, mean, variance))
            if path in self._how.given:
                return normalized(layer, values, *self._how.given[path], mask)
            if not by_batch:
                return layer(*args, **kwargs)
            used = batch_statistics(layer, mean, variance, rows, prior=self._how.prior, parts=self._how.parts)
            return normalized(layer, values, *used, mask)

        with keras.StatelessScope():  # nothing that a layer assigns or adds as a loss is kept
            replay(self._model, inputs, call)


def batch_statistics(
    layer: Any, mean: tf.Tensor, variance: tf.Tensor, rows: tf.Tensor, *, prior: float, parts: Parts = "both"
) -> tuple[tf.Tensor, tf.Tensor]:
    """What a layer normalizes a batch with: its moments, blended with the moving statistics by the prior."""
    if not prior and parts == "both":
        return mean, variance
    moving_mean, moving_variance = (
        tf.cast(weight.value, mean.dtype) for weight in (layer.moving_mean, layer.moving_variance)
    )
    samples = tf.cast(rows, mean.dtype)
    return (
        moving_mean if parts == "variance" else blend(moving_mean, mean, prior=prior, samples=samples),
        moving_variance
        if parts == "mean"
        else blend(moving_variance, variance, prior=prior, samples=samples),
    )


def trace_for_any_rows(function: Any, model: keras.Model, inputs: Any) -> None:
    """Trace a compiled function of a batch once for every number of rows; a smaller last batch traces nothing."""
    if any(each.shape[0] is not None for each in inputs_of(model)):
        return

    def any_rows(values: tf.Tensor | None) -> tf.TensorSpec | None:
        return None if values is None else tf.TensorSpec([None, *values.shape[1:]], values.dtype)

    function.get_concrete_function(keras.tree.map_structure(any_rows, inputs))
