"""Moving statistics from data: with the network's output unchanged, or free to change."""

from typing import Any

import keras
import numpy as np

from bnadapt.errors import SurgeryError
from bnadapt.normalization.moments import Moments, batch_norm_layers, measure
from bnadapt.surgery.sites import Patterns


def calibrate(
    model: keras.Model,
    images: Any,
    *,
    layers: Patterns | None = None,
    samples: int | None = 8192,
    batch_size: int = 256,
) -> list[str]:
    """Set the moving statistics to the data's, and gamma and beta so that inference computes what it computed.

    Changes gamma, beta and the moving statistics of the named layers, and returns their paths. With the
    statistics that are there, mean m and variance v, and the data's, m' and v':
    gamma' = gamma sqrt(v' + epsilon) / sqrt(v + epsilon), beta' = beta + gamma (m' - m) / sqrt(v + epsilon),
    in float64. The map from input to output is the same, so one pass is exact for all depths at once, and
    training, which normalizes with batches, starts from the function that inference computes. A channel that
    never varies gets gamma' = gamma sqrt(epsilon) / sqrt(v + epsilon).

    Args:
        model: a Sequential or Functional network with batch normalization.
        images: as in ``measure``.
        layers: as in ``batch_norm_layers``; by default all.
        samples: use so many samples at most; None: all.
        batch_size: rows at once where ``images`` is an array.

    Raises:
        SurgeryError: no such layer, or one without gamma or beta, which cannot keep its function.
        DataError, ModelError: as in ``measure``; nothing has been changed then.
    """
    chosen = batch_norm_layers(model, layers)
    for path, layer in chosen.items():
        lacking = [name for name in ("gamma", "beta") if getattr(layer, name) is None]
        if lacking:
            raise SurgeryError(
                f"the batch normalization '{path}' has no {' and no '.join(lacking)}, so new statistics "
                "would change its output: leave it out (layers=), or use reestimate, which lets outputs change"
            )
    found = measure(model, images, list(chosen), samples=samples, batch_size=batch_size)
    for path, layer in chosen.items():
        _rewrite(layer, found[path])
    return list(chosen)


def reestimate(
    model: keras.Model,
    images: Any,
    *,
    layers: Patterns | None = None,
    samples: int | None = 8192,
    batch_size: int = 256,
) -> list[str]:
    """Set the moving statistics to the data's, measured in one pass in training mode; outputs may change.

    Changes the moving statistics of the named layers, and returns their paths; gamma and beta stay. All
    layers are measured at once, each normalizing with its own batch meanwhile, and pooled by the law of total
    variance (precise batch normalization, Wu and Johnson, 2021; on unlabelled images of another domain:
    AdaBN, Li et al., 2016). Arguments and errors are those of ``calibrate``; layers without gamma or beta
    are welcome.
    """
    chosen = batch_norm_layers(model, layers)
    found = measure(
        model, images, list(chosen), samples=samples, normalize_with="batch", batch_size=batch_size
    )
    for path, layer in chosen.items():
        layer.moving_mean.assign(found[path].mean)
        layer.moving_variance.assign(found[path].variance)
    return list(chosen)


def _rewrite(layer: keras.layers.BatchNormalization, found: Moments) -> None:
    """New statistics, and the gamma and beta that undo them; both as rounded for storage."""
    gamma, beta, mean, variance = (
        keras.ops.convert_to_numpy(weight).astype(np.float64)
        for weight in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    layer.moving_mean.assign(found.mean)
    layer.moving_variance.assign(found.variance)
    new_mean = keras.ops.convert_to_numpy(layer.moving_mean).astype(np.float64)
    new_variance = keras.ops.convert_to_numpy(layer.moving_variance).astype(np.float64)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    layer.gamma.assign(scale * np.sqrt(new_variance + layer.epsilon))
    layer.beta.assign(beta + scale * (new_mean - mean))
