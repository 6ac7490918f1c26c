"""Stages counted in steps, and stages in which single weights train: through the one fit, to the last bit."""

import numpy as np
import pytest
from rich.console import Console
from small_stages import network_with_batch_norm, plain_network, train

from bnadapt.config import StageSettings
from bnadapt.data.splits import Splits
from bnadapt.errors import FrozenWeightMovedError
from bnadapt.evaluation.results import Epoch
from bnadapt.normalization.policy import drawn_entries
from bnadapt.normalization.proof import fingerprint
from bnadapt.surgery.tree import weights_by_path
from bnadapt.training.progress import Display
from tests.digits import digit_splits


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digit_splits()


@pytest.fixture(scope="module")
def few() -> Splits:
    return digit_splits(train=100)  # two steps of 50 an epoch


def test_a_stage_takes_exactly_its_steps_whatever_the_size_of_the_data(few: Splits, splits: Splits) -> None:
    for data in (few, splits):
        epochs: list[Epoch] = []
        how = StageSettings(steps=17, looks=5, epochs=0, decay="cosine", keep="last")
        network = plain_network()
        trained = train(network, data, how, on_epoch=epochs.append)
        assert (trained.steps, trained.looks, trained.kept_epoch) == (17, (4, 8, 11, 14, 17), 5)
        assert tuple(epochs) == trained.history
        assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5]
        # Keras applies the rate of the step to come: the cosine over 17 steps, wherever the looks are.
        rates = [1e-3 * (1 + np.cos(np.pi * step / 17)) / 2 for step in trained.looks]
        np.testing.assert_allclose([epoch.learning_rate for epoch in epochs], rates, rtol=1e-5, atol=1e-9)


def test_the_looks_make_no_difference_to_what_is_learned(few: Splits) -> None:
    def weights(looks: int) -> dict[str, str]:
        network = network_with_batch_norm(dropout=0.3)
        train(network, few, StageSettings(steps=14, looks=looks, keep="last"))
        return fingerprint(network)

    assert weights(4) == weights(1) == weights(99)


def test_seven_epochs_and_as_many_steps_are_the_same(few: Splits) -> None:
    by_epochs, by_steps = network_with_batch_norm(), network_with_batch_norm()
    first = train(by_epochs, few, StageSettings(epochs=7))
    second = train(by_steps, few, StageSettings(epochs=0, steps=14, looks=7))
    assert fingerprint(by_epochs) == fingerprint(by_steps)
    assert first.looks == second.looks == (2, 4, 6, 8, 10, 12, 14)
    assert [epoch.val_loss for epoch in first.history] == [epoch.val_loss for epoch in second.history]


def test_the_best_look_is_kept_across_looks_of_different_lengths(splits: Splits) -> None:
    weights: dict[int, list[np.ndarray]] = {}
    network = network_with_batch_norm()

    def remember(epoch: Epoch) -> None:
        weights[epoch.number] = network.get_weights()
        if epoch.number == 2:
            network.optimizer.learning_rate = 30.0  # from here on it gets worse

    how = StageSettings(train=["head"], steps=14, looks=4, learning_rate=0.03)
    trained = train(network, splits, how, on_epoch=remember)
    assert trained.looks == (4, 8, 11, 14)  # the looks after the second come from another fit
    losses = {epoch.number: epoch.val_loss for epoch in trained.history}
    assert trained.kept_epoch == min(losses, key=losses.__getitem__) == 2
    for kept, now in zip(weights[2], network.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


@pytest.mark.parametrize("steps", [13, 40])
def test_patience_counts_looks_and_ends_a_stage_for_good(splits: Splits, steps: int) -> None:
    def spoil(_: Epoch) -> None:
        network.optimizer.learning_rate = 3.0

    network = network_with_batch_norm()
    how = StageSettings(train=["head"], steps=steps, looks=12, patience=2)
    trained = train(network, splits, how, on_epoch=spoil)
    assert len(trained.history) == 3
    assert trained.kept_epoch == 1
    assert trained.steps == trained.looks[-1] < steps


def test_progress_counts_steps(splits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    how = StageSettings(train=["head"], steps=9, looks=2)
    train(plain_network(), splits, how, display=Display(Console(width=150), "lines"))
    output = capsys.readouterr().out
    assert "adapt: step 5/9  loss" in output
    assert "adapt: step 9/9  loss" in output


PER_CHANNEL = {"dense1/kernel": 24 * 2, "dense2/kernel": 16 * 2}


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [("adam", plain_network), ("adamw", network_with_batch_norm), ("sgd", network_with_batch_norm)],
)
def test_the_drawn_weights_train_and_not_a_bit_besides(splits: Splits, optimizer: str, make) -> None:
    network = make()
    start = {path: np.array(each) for path, each in weights_by_path(network).items()}
    tables: list[str] = []
    how = StageSettings(
        train=["2 per channel"], steps=6, optimizer=optimizer, learning_rate=0.01, keep="last"
    )
    trained = train(network, splits, how, on_policy=tables.append)
    drawn = drawn_entries(network, ["2 per channel"], seed=3)
    assert {path: mask.sum() for path, mask in drawn.items()} == PER_CHANNEL
    assert trained.trainable == sum(PER_CHANNEL.values())
    assert set(trained.moved) == set(PER_CHANNEL)
    for path, each in weights_by_path(network).items():
        differs = np.array(each).view("int32") != start[path].view("int32")
        if path in drawn:
            # Single entries may belong to pixels that are always dark.
            assert differs.sum() > drawn[path].sum() / 2
            assert not differs[~drawn[path]].any()
        else:
            assert not differs.any()
    assert "48 of 1,560" in tables[0]
    assert f"{trained.trainable} of " in tables[0].splitlines()[-1]


def test_together_with_other_layers(splits: Splits) -> None:
    network = plain_network()
    trained = train(network, splits, StageSettings(train=["2 per channel", "head", "dense2"], steps=3))
    assert trained.trainable == 48 + (24 * 16 + 16) + (16 * 10 + 10)
    assert set(trained.moved) == {"dense1/kernel", "dense2/kernel", "dense2/bias", "head/kernel", "head/bias"}


def test_another_seed_draws_other_weights_and_the_same_seed_the_same(splits: Splits) -> None:
    def changed(seed: int) -> np.ndarray:
        network = plain_network()
        before = np.array(network.get_layer("dense2").kernel)
        how = StageSettings(train=["2 per channel"], steps=2, keep="last")
        train(network, splits, how, seed=seed)
        return np.array(network.get_layer("dense2").kernel) != before

    np.testing.assert_array_equal(changed(1), changed(1))
    assert (changed(1) != changed(2)).any()


def test_a_bit_that_moves_outside_the_draw_stops_the_stage_with_the_layers_name(splits: Splits) -> None:
    network = plain_network()

    def disturb(_: Epoch) -> None:
        kernel = network.get_layer("dense2").kernel
        values = np.array(kernel)
        outside = ~drawn_entries(network, ["1 per channel"], seed=3)["dense2/kernel"]
        first = np.argwhere(outside)[0]
        values[tuple(first)] = np.nextafter(values[tuple(first)], np.float32(9))
        kernel.assign(values)

    how = StageSettings(train=["1 per channel"], steps=2, looks=1, keep="last")
    message = "entries of dense2/kernel changed that were not among those drawn to train"
    with pytest.raises(FrozenWeightMovedError, match=message):
        train(network, splits, how, on_epoch=disturb)


def test_layers_near_the_input_learn_more_slowly_where_the_stage_says_so(splits: Splits) -> None:
    def moved(decay: float) -> list[float]:
        network = plain_network()
        names = ("dense1", "dense2", "head")
        before = [np.array(network.get_layer(name).bias) for name in names]
        how = StageSettings(steps=1, layerwise_decay=decay, learning_rate=0.01)
        train(network, splits, how)
        return [
            float(np.abs(np.array(network.get_layer(name).bias) - start).max())
            for name, start in zip(names, before, strict=True)
        ]

    # Adam's first step is as long as its rate.
    np.testing.assert_allclose(moved(1.0), [0.01, 0.01, 0.01], rtol=1e-3)
    np.testing.assert_allclose(moved(0.1), [0.0001, 0.001, 0.01], rtol=1e-3)
