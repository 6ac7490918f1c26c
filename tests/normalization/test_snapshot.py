"""Weights as they were: read-only, comparable, and put back in their own network only."""

import keras
import numpy as np
import pytest
from keras import layers
from networks import cnn, images, residual, two_norms

from bnadapt.errors import ModelError, SurgeryError
from bnadapt.normalization.proof import fingerprint
from bnadapt.normalization.snapshot import Snapshot, replace, restore
from bnadapt.normalization.statistics import calibrate, reestimate


def test_it_cannot_be_changed():
    array = np.ones(3, "float32")
    snapshot = Snapshot({"bn": {"gamma": array}})
    array[0] = 5
    np.testing.assert_array_equal(snapshot["bn"]["gamma"], np.ones(3))
    with pytest.raises(ValueError, match="read-only"):
        snapshot["bn"]["gamma"][0] = 2
    with pytest.raises(TypeError):
        snapshot["bn"]["beta"] = array
    with pytest.raises(TypeError):
        snapshot["other"] = {}


def test_it_is_equal_where_every_bit_is():
    one = Snapshot({"bn": {"gamma": np.float32([0.0, np.nan])}})
    assert one == Snapshot({"bn": {"gamma": np.float32([0.0, np.nan])}})
    assert one != Snapshot({"bn": {"gamma": np.float32([-0.0, np.nan])}})
    assert one != Snapshot({"bn": {"beta": np.float32([0.0, np.nan])}})
    assert repr(one) == "weights of 1 layer\n  bn: gamma"
    assert (list(one), len(one)) == (["bn"], 1)


def test_it_brings_back_bits_of_any_kind():
    model = two_norms()
    model.get_layer("first").gamma.assign([0.0, -0.0, np.nan, 1e-42])
    before = fingerprint(model)
    kept = keras.ops.convert_to_numpy(model.get_layer("first").gamma)
    model.get_layer("first").gamma.assign(np.ones(4))
    assert restore(model, Snapshot({"first": {"gamma": kept}})) == ["first"]
    assert fingerprint(model) == before


def test_other_training_in_between_does_not_matter():
    model = cnn()
    snapshot = calibrate(model, images(20), layers="conv_inserted_bn")
    kernel = model.get_layer("conv").kernel
    kernel.assign(kernel * 2)
    restore(model, snapshot)
    reference = cnn()
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        np.testing.assert_array_equal(
            getattr(model.get_layer("conv_inserted_bn"), name),
            getattr(reference.get_layer("conv_inserted_bn"), name),
        )


def test_another_network_is_refused_and_stays():
    snapshot = reestimate(cnn(), images(20))
    model = residual()
    before = fingerprint(model)
    with pytest.raises(
        SurgeryError,
        match=r"left as it is: conv_inserted_bn/moving_mean float32 \(4,\), here nothing; conv_inserted_bn/moving_v",
    ):
        restore(model, snapshot)
    assert fingerprint(model) == before
    i = keras.Input((3,))
    wide = keras.Model(i, layers.BatchNormalization(name="bn1", dtype="float64")(i))
    kept = {"bn1": {"gamma": np.ones(3, "float32")}}
    with pytest.raises(SurgeryError, match=r"bn1/gamma float32 \(3,\), here float64 \(3,\)"):
        restore(wide, Snapshot(kept))
    with pytest.raises(SurgeryError, match=r"bn1/gamma float32 \(3,\), here float32 \(4,\)"):
        restore(model, Snapshot(kept | {"bn2": {"gamma": np.zeros(4, "float32")}}))
    assert fingerprint(model) == before


def test_only_snapshots_are_put_back():
    for wrong in (None, {}, 3):
        with pytest.raises(
            SurgeryError, match=rf"snapshot={wrong!r}: pass what calibrate or reestimate returned"
        ):
            restore(residual(), wrong)


def test_what_is_no_number_is_told_from_what_is_too_large():
    model = residual()
    before = fingerprint(model)
    norms = {"bn1": model.get_layer("bn1")}
    with pytest.raises(ModelError, match=r"the new beta .* 'bn1' is not finite in 1 of 4 channels \(nan\)"):
        replace(norms, {"bn1": {"gamma": np.ones(4), "beta": np.array([0, 0, np.nan, 1])}})
    with pytest.raises(
        ModelError, match=r"the new beta .* reaches 1e\+300, which its type float32 cannot hold"
    ):
        replace(norms, {"bn1": {"beta": np.array([0, 0, 1e300, 1])}})
    assert fingerprint(model) == before
