"""Moving statistics from data: with the network's output unchanged, or free to change."""

import numbers
from collections.abc import Mapping
from typing import Any, Literal, get_args

import keras
import numpy as np

from bnadapt.errors import DataError, SurgeryError
from bnadapt.normalization.affine import unchanged_map
from bnadapt.normalization.batches import Samples, can_be_read_again
from bnadapt.normalization.moments import (
    Moments,
    Parts,
    Pass,
    blend,
    measure,
    measure_pass,
)
from bnadapt.normalization.order import rounds
from bnadapt.normalization.selection import batch_norm_layers, warn_of_hidden
from bnadapt.normalization.snapshot import Snapshot, replace
from bnadapt.surgery.sites import Patterns

Order = Literal["together", "in_turn"]


def calibrate(
    model: keras.Model,
    images: Any,
    *,
    layers: Patterns | None = None,
    samples: Samples = 8192,
    batch_size: int = 256,
) -> Snapshot:
    """Set the moving statistics to the data's, and gamma and beta so that inference computes what it computed.

    Changes gamma, beta and the moving statistics of the named layers, and returns the former ones. With the
    statistics that are there, mean m and variance v, and the data's, m' and v':
    gamma' = gamma sqrt(v' + epsilon) / sqrt(v + epsilon), beta' = beta + gamma (m' - m) / sqrt(v + epsilon).
    The map from input to output is the same, so one pass is exact for all depths at once, and training, which
    normalizes with batches, starts from the function that inference computes. A channel that never varies
    gets gamma' = gamma sqrt(epsilon) / sqrt(v + epsilon).

    What is exact: Keras multiplies by rsqrt(variance + epsilon) gamma and adds beta - mean times that, in
    float32. Variance and gamma are chosen within some roundings of the above so that the multiplier is the
    former one bit for bit, and beta so that the offset is. For layers as ``insert_batch_norm`` makes them
    (multiplier 1, offset 0) inference is therefore bit-identical, at any mean. For others the offset can
    miss by a rounding of beta or of mean times multiplier, whichever is larger; and a
    layer with variables in half precision has too few values to choose from. XLA, which computes in another
    order, can differ by roundings.

    Args:
        model: a Sequential or Functional network with batch normalization.
        images: as in ``measure``.
        layers: as in ``batch_norm_layers``; by default all; a warning names those that are inside
            a TimeDistributed or another layer, which stay as they are.
        samples: use so many samples at most; None or "all": all.
        batch_size: rows at once where ``images`` is an array or holds arrays.

    Raises:
        SurgeryError: no such layer, or one without gamma or beta, which cannot keep its function.
        DataError, ModelError: as in ``measure``; nothing has been changed then, nor after an interruption.
    """
    chosen = batch_norm_layers(model, layers)
    warn_of_hidden(model, layers)
    for path, layer in chosen.items():
        lacking = [name for name in ("gamma", "beta") if getattr(layer, name) is None]
        if lacking:
            raise SurgeryError(
                f"the batch normalization '{path}' has no {' and no '.join(lacking)}, so new statistics "
                "would change its output: leave it out (layers=), or use reestimate, which lets outputs change"
            )
    found = measure(model, images, list(chosen), samples=samples, batch_size=batch_size)
    weights = {}
    for path, layer in chosen.items():
        new = unchanged_map(layer, found[path].mean, found[path].variance)
        weights[path] = new | _of_renormalization(layer, new)
    return replace(chosen, weights)


def reestimate(
    model: keras.Model,
    images: Any,
    *,
    layers: Patterns | None = None,
    samples: Samples = 8192,
    batch_size: int = 256,
    prior: float = 0.0,
    parts: Parts = "both",
    order: Order = "together",
) -> Snapshot:
    """Set the moving statistics to the data's at the layers' new inputs; outputs may change.

    Changes the moving statistics of the named layers, and returns the former ones; gamma and beta stay. The
    batches' moments are pooled by the law of total variance (precise batch normalization, Wu and Johnson,
    2021; on unlabelled images of another domain: AdaBN, Li et al., 2016). Layers that are not named keep
    normalizing with their moving statistics.

    Args:
        model: a Sequential or Functional network with batch normalization; gamma and beta are not needed.
        images: as in ``measure``.
        layers: as in ``batch_norm_layers``; by default all; a warning names those that are inside
            a TimeDistributed or another layer, which stay as they are.
        samples: use so many samples at most; None or "all": all.
        batch_size: rows at once where ``images`` is an array or holds arrays.
        prior: how many samples the present statistics are worth, N: the new ones are
            N / (N + n) of the present and n / (N + n) of the measured, for mean and variance (Schneider et
            al., 2020). n counts samples, not positions. 0 forgets the present ones.
        parts: "mean": variances stay; "variance": means stay.
        order: "together": one pass, in which every named layer normalizes with its own batch (blended and in
            parts as above, n being the rows of that batch). "in_turn": layer after layer, those before
            normalizing with their new statistics, so that the cut into batches does not matter; layers that do
            not depend on each other share a pass. It reads the images once per pass. (Where calls of shared
            layers depend on each other, those layers go together.)

    Raises:
        SurgeryError: no such layer, or an argument out of range.
        DataError: as in ``measure``, or an iterator for order="in_turn", which can be read only once.
        ModelError: as in ``measure``. After any error or interruption everything is as it was.
    """
    if not isinstance(prior, numbers.Real) or not 0 <= prior < float("inf"):
        raise SurgeryError(f"prior={prior!r}: must be a number of samples, 0 or more")
    if parts not in get_args(Parts):
        raise SurgeryError(f"parts={parts!r}: choose {', '.join(get_args(Parts))}")
    if order not in get_args(Order):
        raise SurgeryError(f"order={order!r}: choose {', '.join(get_args(Order))}")
    chosen = batch_norm_layers(model, layers)
    warn_of_hidden(model, layers)
    if order == "in_turn" and not can_be_read_again(images):
        raise DataError(
            f"order='in_turn' reads the images several times, and a {type(images).__name__} gives them once: "
            "pass an array, a list of batches or a tf.data.Dataset, or choose order='together'"
        )
    new: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for group in rounds(model, chosen) if order == "in_turn" else [list(chosen)]:
        how = Pass(frozenset(group), new, prior, parts)
        found = measure_pass(model, images, group, how, samples=samples, batch_size=batch_size)
        new |= {path: _blended(chosen[path], found[path], prior, parts) for path in group}
    weights = {}
    for path, layer in chosen.items():
        statistics = dict(zip(("moving_mean", "moving_variance"), new[path], strict=True))
        kept = {"mean": ["moving_mean"], "variance": ["moving_variance"]}.get(parts, list(statistics))
        of_layer = {name: statistics[name] for name in kept}
        weights[path] = of_layer | _of_renormalization(layer, of_layer)
    return replace(chosen, weights)


def _blended(layer: Any, found: Moments, prior: float, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """The statistics that a layer gets, float64."""
    mean, variance = (
        keras.ops.convert_to_numpy(weight).astype(np.float64)
        for weight in (layer.moving_mean, layer.moving_variance)
    )
    if parts != "variance":
        mean = blend(mean, found.mean, prior=prior, samples=found.samples)
    if parts != "mean":
        variance = blend(variance, found.variance, prior=prior, samples=found.samples)
    return mean, variance


def _of_renormalization(layer: Any, statistics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What batch renormalization (renorm=True) keeps besides: the same statistics, as standard deviations."""
    if not layer.renorm:
        return {}
    new = {}
    if "moving_mean" in statistics:
        new["renorm_mean"] = statistics["moving_mean"]
    if "moving_variance" in statistics:
        deviation = np.sqrt(statistics["moving_variance"].astype(np.float64) + layer.epsilon)
        new |= {"moving_stddev": deviation, "renorm_stddev": deviation}
    return new
