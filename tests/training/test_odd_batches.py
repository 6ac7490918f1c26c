"""Batches of one image, batches larger than the data, and networks that compute in 16 bits."""

from pathlib import Path

import keras
import numpy as np
import pytest
from interruptions import Interrupting, state_of, without_times
from small_stages import train

from bnadapt.config import ModelSettings, StageSettings
from bnadapt.models.build import build
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import find_sites
from tests.digits import digit_splits


def small(precision: str = "auto") -> keras.Model:
    keras.utils.set_random_seed(0)
    plain = build(ModelSettings(widths=[12], dropout=0.2, precision=precision), (8, 8, 1), 10)
    return insert_batch_norm(plain, find_sites(plain), momentum=0.9)


@pytest.mark.fault(
    "small: batches of one, a last batch of one",
    "trains with finite losses; the last batch counts by its size",
)
def test_batches_of_one_image_and_a_last_batch_of_one() -> None:
    splits = digit_splits(train=6, validation=4)  # validation in batches of three: the last one has one image
    how = StageSettings(train=["batch_norm"], epochs=2, statistics="stay", normalize="moving", keep="last")
    trained = train(small(), splits, how, batch_size=1, evaluation_batch_size=3)
    assert (trained.steps, trained.looks) == (12, (6, 12))
    assert all(np.isfinite([look.loss, look.val_loss]).all() for look in trained.history)
    one = train(small(), splits, how, batch_size=1, evaluation_batch_size=4)
    for look, other in zip(trained.history, one.history, strict=True):
        assert look.val_loss == pytest.approx(other.val_loss, rel=1e-5)


@pytest.mark.fault(
    "small: fewer images than the batch",
    "one step an epoch with all of them",
)
def test_fewer_images_than_a_batch_make_one_step_an_epoch() -> None:
    splits = digit_splits(train=7, validation=1)
    trained = train(small(), splits, StageSettings(epochs=2), batch_size=64, evaluation_batch_size=64)
    assert trained.looks == (1, 2)
    assert np.isfinite(trained.history[-1].val_loss)


@pytest.mark.fault(
    "odd: mixed precision, interrupted",
    "goes on bit-identical, with the scale of the loss",
)
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_networks_that_compute_in_16_bits_train_and_are_gone_on_with(tmp_path: Path, precision: str) -> None:
    splits = digit_splits(train=250, validation=50)
    path, start = tmp_path / "fit.checkpoint", tmp_path / "start.keras"
    small(precision).save(start)
    how = StageSettings(epochs=2, learning_rate=0.01, keep="last")

    def fit(**changes: object) -> tuple[keras.Model, object]:
        network = keras.models.load_model(start)
        assert network.get_layer("dense1").compute_dtype == precision.removeprefix("mixed_")
        return network, train(network, splits, how, **changes)

    whole, trained = fit()
    assert trained.history[-1].loss < trained.history[0].loss
    layer = whole.get_layer("dense1_inserted_bn")
    assert {each.dtype for each in layer.weights} == {"float32"}
    with pytest.raises(KeyboardInterrupt):
        fit(checkpoint=path, every_steps=3, display=Interrupting(step=8))
    resumed, again = fit(checkpoint=path, every_steps=3)
    assert without_times(again) == without_times(trained)
    assert state_of(resumed) == state_of(whole)
    if precision == "mixed_float16":  # the scale of the loss has been restored with the optimizer
        assert float(resumed.optimizer.dynamic_scale) > 1
