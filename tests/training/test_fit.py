"""The one fit: what moves and what does not, what is kept, and that the same seed gives the same weights."""

import keras
import numpy as np
import pytest
from rich.console import Console
from small_stages import network_with_batch_norm, plain_network, train

from bnadapt.config import StageSettings, SwitchSettings
from bnadapt.data.splits import Splits
from bnadapt.errors import FrozenWeightMovedError, SurgeryError
from bnadapt.evaluation.results import Epoch
from bnadapt.normalization.proof import fingerprint
from bnadapt.training.fit import Trained, momentum_for
from bnadapt.training.progress import Display
from tests.digits import digit_splits


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digit_splits()


@pytest.fixture
def network() -> keras.Model:
    return network_with_batch_norm()


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path in before if before[path] != after[path]}


BATCH_NORM_WEIGHTS = {
    f"dense{number}_inserted_bn/{weight}"
    for number in (1, 2)
    for weight in ("gamma", "beta", "moving_mean", "moving_variance")
}


@pytest.mark.parametrize(
    ("how", "moves"),
    [
        (StageSettings(train=["batch_norm"], epochs=1), BATCH_NORM_WEIGHTS),
        (
            StageSettings(train=["batch_norm"], epochs=1, statistics="stay", normalize="moving"),
            {path for path in BATCH_NORM_WEIGHTS if not path.rpartition("/")[2].startswith("moving")},
        ),
        (
            StageSettings(
                train=["batch_norm"],
                epochs=1,
                batch_norm={"dense2.*": SwitchSettings(affine=False, statistics="stay")},
            ),
            {path for path in BATCH_NORM_WEIGHTS if path.startswith("dense1")},
        ),
        (
            StageSettings(train=["statistics"]),
            {path for path in BATCH_NORM_WEIGHTS if path.rpartition("/")[2].startswith("moving")},
        ),
        (StageSettings(train=["head"], epochs=1), {"head/kernel", "head/bias"}),
        (StageSettings(train=["dense1"], epochs=1), {"dense1/kernel", "dense1/bias"}),
    ],
)
def test_exactly_what_is_declared_moves(
    network: keras.Model, splits: Splits, how: StageSettings, moves: set[str]
) -> None:
    before = fingerprint(network)
    trained = train(network, splits, how)
    assert changed(before, fingerprint(network)) == moves
    assert set(trained.moved) == moves


def test_everything_moves_after_a_frozen_stage(network: keras.Model, splits: Splits) -> None:
    train(network, splits, StageSettings(train=["batch_norm"], epochs=1))
    before = fingerprint(network)
    trained = train(network, splits, StageSettings(train=["all"], epochs=1))
    assert changed(before, fingerprint(network)) == set(before)
    assert trained.trainable == sum(int(np.prod(each.shape)) for each in network.trainable_variables)


def test_zero_epochs_change_nothing(network: keras.Model, splits: Splits) -> None:
    before = fingerprint(network)
    trained = train(network, splits, StageSettings(train=["all"], epochs=0))
    assert trained == Trained(0, (), 0, 0, ())
    assert fingerprint(network) == before


def test_a_frozen_weight_that_moves_stops_the_stage_with_its_name(
    network: keras.Model, splits: Splits
) -> None:
    def disturb(_: Epoch) -> None:
        kernel = network.get_layer("dense1").kernel
        kernel.assign(kernel + 1e-6)

    with pytest.raises(FrozenWeightMovedError, match="although they were frozen: dense1/kernel"):
        train(network, splits, StageSettings(train=["batch_norm"], epochs=1, keep="last"), on_epoch=disturb)


def test_the_moving_statistics_at_the_end_are_those_of_the_training_images(
    network: keras.Model, splits: Splits
) -> None:
    train(network, splits, StageSettings(train=["all"], epochs=1))
    inputs = keras.Model(network.inputs, network.get_layer("dense1").output)
    images = np.concatenate([batch for batch, _ in splits.train.batches(600)])
    activations = np.asarray(inputs(images), "float64")
    layer = network.get_layer("dense1_inserted_bn")
    np.testing.assert_allclose(layer.moving_mean, activations.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, activations.var(axis=0), rtol=1e-4, atol=1e-6)


def test_statistics_without_labels_are_those_of_the_images_blended_with_the_prior(
    network: keras.Model, splits: Splits
) -> None:
    layer = network.get_layer("dense1_inserted_bn")
    layer.moving_mean.assign(np.full(24, 7.0))
    trained = train(network, splits, StageSettings(train=["statistics"], prior=800), samples=200)
    assert (trained.steps, trained.trainable, trained.history) == (0, 0, ())
    inputs = keras.Model(network.inputs, network.get_layer("dense1").output)
    first = next(iter(splits.train.mixed(200, seed=3)))[0]
    expected = 0.8 * 7.0 + 0.2 * np.asarray(inputs(first), "float64").mean(axis=0)
    np.testing.assert_allclose(layer.moving_mean, expected, rtol=1e-4, atol=1e-5)


def test_the_policy_is_told_before_the_first_step(network: keras.Model, splits: Splits) -> None:
    tables: list[str] = []
    train(network, splits, StageSettings(train=["head"], epochs=1), on_policy=tables.append)
    (table,) = tables
    assert "dense1_inserted_bn" in table
    assert "moving" in table


def test_without_reestimation_they_lag_behind(network: keras.Model, splits: Splits) -> None:
    train(network, splits, StageSettings(train=["all"], epochs=1, reestimate=False))
    inputs = keras.Model(network.inputs, network.get_layer("dense1").output)
    images = np.concatenate([batch for batch, _ in splits.train.batches(600)])
    variance = np.asarray(inputs(images), "float64").var(axis=0)
    assert not np.allclose(network.get_layer("dense1_inserted_bn").moving_variance, variance, rtol=1e-2)


def test_the_epoch_with_the_lowest_validation_loss_is_kept(network: keras.Model, splits: Splits) -> None:
    weights: dict[int, list[np.ndarray]] = {}

    def remember(epoch: Epoch) -> None:
        weights[epoch.number] = network.get_weights()
        if epoch.number == 3:
            network.optimizer.learning_rate = 3.0  # from here on it gets worse

    trained = train(network, splits, StageSettings(train=["head"], epochs=5), on_epoch=remember)
    losses = {epoch.number: epoch.val_loss for epoch in trained.history}
    assert trained.kept_epoch == min(losses, key=losses.__getitem__) == 3
    for kept, now in zip(weights[3], network.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, now)


def test_or_the_last_one_where_the_stage_says_so(network: keras.Model, splits: Splits) -> None:
    def spoil(epoch: Epoch) -> None:
        network.optimizer.learning_rate = 3.0

    how = StageSettings(train=["head"], epochs=3, keep="last")
    trained = train(network, splits, how, on_epoch=spoil)
    assert trained.kept_epoch == 3
    assert min(trained.history, key=lambda epoch: epoch.val_loss).number != 3


def test_patience_ends_a_stage_early(network: keras.Model, splits: Splits) -> None:
    how = StageSettings(train=["head"], epochs=30, learning_rate=0.5, patience=1)
    trained = train(network, splits, how)
    assert len(trained.history) < 30
    assert trained.steps == trained.looks[-1] == len(trained.history) * 12


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(splits: Splits) -> None:
    def weights(seed: int) -> dict[str, str]:
        network = plain_network(widths=[12], dropout=0.3)
        train(network, splits, StageSettings(epochs=2), seed=seed)
        return fingerprint(network)

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_weight_decay_spares_gamma_and_beta(network: keras.Model, splits: Splits) -> None:
    network.get_layer("dense1_inserted_bn").gamma.assign(np.full(24, 7.0))
    # A rate of almost nothing: what moves, moves by decay.
    how = StageSettings(epochs=1, learning_rate=1e-7, optimizer="adamw", weight_decay=1e5)
    kernel = np.array(network.get_layer("dense1").kernel)
    train(network, splits, how)
    assert np.abs(network.get_layer("dense1").kernel / kernel - 1).min() > 0.05
    np.testing.assert_allclose(network.get_layer("dense1_inserted_bn").gamma, 7.0, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("decay", ["none", pytest.param("cosine", marks=pytest.mark.slow)])
def test_every_optimizer_learns(network: keras.Model, splits: Splits, optimizer: str, decay: str) -> None:
    rate = 0.1 if optimizer == "sgd" else 0.01
    trained = train(
        network, splits, StageSettings(epochs=3, learning_rate=rate, optimizer=optimizer, decay=decay)
    )
    assert trained.history[-1].val_accuracy > 0.8
    assert (trained.history[-1].learning_rate < rate / 2) == (decay == "cosine")


def test_a_selector_that_matches_nothing_lists_what_there_is(network: keras.Model, splits: Splits) -> None:
    with pytest.raises(SurgeryError, match=r"'conv\.\*' selects no layer with weights; there are: dense1,"):
        train(network, splits, StageSettings(train=["conv.*"], epochs=1))


@pytest.mark.parametrize(
    ("steps", "momentum"), [(1, 0.9), (100, 0.9), (200, 0.95), (1000, 0.99), (10**6, 0.99)]
)
def test_momentum_follows_the_number_of_steps(steps: int, momentum: float) -> None:
    assert momentum_for(steps) == pytest.approx(momentum)


@pytest.mark.parametrize(
    ("mode", "shows"), [("lines", ["adapt: epoch 1/2", "adapt: epoch 2/2"]), ("bars", ["epoch 2/2"])]
)
def test_progress_is_shown(
    network: keras.Model, splits: Splits, mode: str, shows: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display(Console(width=150, force_terminal=mode == "bars"), mode)
    train(network, splits, StageSettings(train=["head"], epochs=2), display=display)
    output = capsys.readouterr().out
    for text in [*shows, "val_accuracy"]:
        assert text in output
    assert ("\x1b" in output) == (mode == "bars")


def test_two_trainings_one_after_the_other_count_as_one() -> None:
    def epochs(*losses: float) -> tuple[Epoch, ...]:
        return tuple(Epoch(n, 0.5, loss, 0.5, loss, 0.1, 1.0) for n, loss in enumerate(losses, start=1))

    first = Trained(10, epochs(3.0, 2.0), 20, 2, ("a/kernel", "b/kernel"), (10, 20), 0.1)
    second = Trained(4, epochs(1.0), 10, 1, ("b/kernel", "c/gamma"), (10,), 0.01)
    both = first.then(second)
    assert [(epoch.number, epoch.loss) for epoch in both.history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert (both.trainable, both.steps, both.kept_epoch) == (10, 30, 3)
    assert both.moved == ("a/kernel", "b/kernel", "c/gamma")
    assert (both.looks, both.learning_rate) == ((10, 20, 30), 0.01)
    nothing = Trained(0, (), 0, 0, ())
    assert nothing.then(first) == first
    assert first.then(nothing) == first
