"""Fingerprints, and the comparison with what was declared."""

import keras
import numpy as np
import pytest
from networks import cnn, images

from bnadapt.errors import FrozenWeightMovedError, NothingMovedError
from bnadapt.normalization.policy import BATCH_NORM, train_only
from bnadapt.normalization.proof import (
    assert_only_declared_moved,
    compare_fingerprints,
    declared_to_move,
    fingerprint,
)

BEFORE = {"a": "1", "b": "2", "c": "3", "d": "4"}


def test_three_kinds_of_movement_are_told_apart():
    movement = compare_fingerprints(BEFORE, {"a": "9", "b": "2", "c": "0", "e": "5"}, {"a", "b"})
    assert movement.moved == ("a",)
    assert movement.still == ("b",)
    assert movement.undeclared == ("c", "d", "e")


def test_a_declared_weight_may_stay():
    after = BEFORE | {"a": "9"}
    assert assert_only_declared_moved(BEFORE, after, {"a", "b"}) == ["a"]
    assert compare_fingerprints(BEFORE, after, {"a", "b"}).still == ("b",)


def test_nothing_moved_is_an_error_unless_nothing_was_declared_or_all_may_stay():
    with pytest.raises(NothingMovedError, match="2 of 4 weights were to change, and none did"):
        assert_only_declared_moved(BEFORE, BEFORE, {"a", "b"})
    assert assert_only_declared_moved(BEFORE, BEFORE, set()) == []
    assert assert_only_declared_moved(BEFORE, BEFORE, {"a"}, all_may_stay=True) == []


def test_an_undeclared_change_is_named():
    model = cnn()
    before = fingerprint(model)
    train_only(model, BATCH_NORM)
    model.get_layer("conv").kernel.assign_add(keras.ops.ones(model.get_layer("conv").kernel.shape) * 1e-7)
    with pytest.raises(
        FrozenWeightMovedError, match="1 of 20 weights changed although they were frozen: conv/kernel"
    ):
        assert_only_declared_moved(before, fingerprint(model), declared_to_move(model))
    with pytest.raises(FrozenWeightMovedError, match="out/bias"):
        assert_only_declared_moved(before, {k: v for k, v in before.items() if k != "out/bias"}, set())


def test_a_stale_training_function_is_caught_by_what_it_does():
    model = cnn()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    labels = np.ones((20, 3))
    model.fit(images(20), labels, verbose=0)
    for layer in model.layers:  # by hand, and not compiled again
        layer.trainable = layer.name == "out"
    before = fingerprint(model)
    model.fit(images(20), labels, verbose=0)
    with pytest.raises(FrozenWeightMovedError, match="conv/kernel"):
        assert_only_declared_moved(before, fingerprint(model), declared_to_move(model))


def test_fingerprints_ignore_seeds_and_see_every_bit():
    model = cnn()
    before = fingerprint(model)
    model(images(4), training=True)
    changed = {path for path, value in fingerprint(model).items() if before[path] != value}
    assert {path.split("/")[1] for path in changed} == {"moving_mean", "moving_variance"}
    assert len(changed) == 6
    assert len(before) == len(model.weights) == 20
    bias = model.get_layer("out").bias
    before = fingerprint(model)
    bias.assign(keras.ops.convert_to_numpy(bias) * -1.0)  # zeros become negative zeros
    assert fingerprint(model) != before
