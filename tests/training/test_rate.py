"""The range test: what it suggests of known curves, that it trains what the stage trains, and that it is undone."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stages import network_with_batch_norm, plain_network, train

from bnadapt.config import StageSettings
from bnadapt.data.splits import Splits
from bnadapt.errors import StageError
from bnadapt.normalization.policy import drawn_entries
from bnadapt.normalization.proof import fingerprint
from bnadapt.surgery.tree import weights_by_path
from bnadapt.training.fit import set_policy
from bnadapt.training.pace import batches
from bnadapt.training.rate import HIGHEST, LOWEST, STEPS, RateTest, find_rate, smooth, suggest
from tests.digits import digit_splits

RATES = np.geomspace(LOWEST, HIGHEST, STEPS)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digit_splits()


def curve(*, depth: float, half_at: float, diverges_at: float) -> np.ndarray:
    """Flat at 1.2, falling by ``depth`` around one rate, and exploding from another one on."""
    logarithm = np.log10(RATES)
    falling = depth / (1 + np.exp(-4 * (logarithm - np.log10(half_at))))
    return 1.2 - falling + np.exp(np.clip(8 * (logarithm - np.log10(diverges_at)), None, 5))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    depth=st.floats(0.3, 1.1),
    half_at=st.floats(1e-4, 3e-3),
    decades=st.floats(1.2, 2),
)
def test_the_suggestion_descends_and_stays_clear_of_divergence_whatever_the_noise(
    seed: int, depth: float, half_at: float, decades: float
) -> None:
    diverges_at = half_at * 10**decades
    noise = np.random.default_rng(seed).normal(0, 0.05, STEPS)
    losses = curve(depth=depth, half_at=half_at, diverges_at=diverges_at) + noise
    test = suggest(RATES.tolist(), losses.tolist(), otherwise=7.0)
    assert test.found
    assert half_at / 20 < test.suggestion < diverges_at / 7


def test_the_suggestion_is_a_tenth_of_the_rate_with_the_lowest_smoothed_loss() -> None:
    losses = curve(depth=0.8, half_at=1e-3, diverges_at=0.1)
    smoothed = [losses[max(0, index - 4) : index + 5].mean() for index in range(STEPS)]
    test = suggest(RATES.tolist(), losses.tolist(), otherwise=7.0)
    np.testing.assert_allclose(test.smoothed, smoothed, rtol=1e-12)
    assert test.suggestion == pytest.approx(RATES[int(np.argmin(smoothed))] / 10)
    assert test.rates == tuple(RATES)
    assert test.losses == tuple(losses)
    assert test.explanation.startswith(
        f"a tenth of {10 * test.suggestion:.2g}, at which the loss was lowest (1.2 "
    )


@pytest.mark.parametrize("noise", [0.0, 1e-4, 0.05, 0.5])
def test_a_loss_that_does_not_descend_leaves_the_rate_as_it_was(noise: float) -> None:
    found = [
        suggest(
            RATES.tolist(),
            (0.8 + noise * np.random.default_rng(seed).normal(size=STEPS)).tolist(),
            otherwise=0.02,
        )
        for seed in range(100)
    ]
    assert sum(test.found for test in found) <= 12
    for test in found:
        if not test.found:
            assert test.suggestion == 0.02
            assert test.explanation == (
                "the loss did not descend in 100 steps at rising rates: learning_rate stays 0.02"
            )


@pytest.mark.parametrize("steps", [0, 1, 20])
def test_neither_does_a_test_that_ended_at_once(steps: int) -> None:
    test = suggest(RATES[:steps].tolist(), np.linspace(3, 1, steps).tolist(), otherwise=0.5)
    assert (test.suggestion, test.found, len(test.smoothed)) == (0.5, False, steps)


def test_smoothing_of_a_straight_line_leaves_it_away_from_the_ends() -> None:
    line = np.arange(30.0)
    np.testing.assert_allclose(smooth(line)[4:-4], line[4:-4])


def states(network: keras.Model) -> dict[str, bytes]:
    return {each.path: np.array(each).tobytes() for each in network.variables}


def a_range_test(network: keras.Model, splits: Splits, how: StageSettings, **changes: Any) -> RateTest:
    set_policy(network, how)
    trial = batches(splits.train, 50, seed=1, first=0, steps=STEPS)
    return find_rate(network, trial, how, from_logits=False, **changes)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_every_variable_is_put_back_statistics_and_seeds_included(splits: Splits, optimizer: str) -> None:
    network = network_with_batch_norm(dropout=0.3)
    before = states(network)
    assert any("seed" in path for path in before)
    test = a_range_test(network, splits, StageSettings(optimizer=optimizer))
    assert states(network) == before
    assert test.found
    assert min(test.smoothed) < np.mean(test.losses[:20]) / 2


def test_while_it_lasts_it_trains_what_the_stage_trains_and_nothing_else(splits: Splits) -> None:
    network = network_with_batch_norm()
    what = ["2 per channel", "dense2_inserted_bn"]
    drawn = drawn_entries(network, what, seed=0)
    start = {path: np.array(each) for path, each in weights_by_path(network).items()}
    moved: dict[str, np.ndarray] = {}

    def watched() -> Iterator[Any]:
        for step, batch in enumerate(batches(splits.train, 50, seed=1, first=0, steps=STEPS)):
            if step == 60:
                for path, each in weights_by_path(network).items():
                    moved[path] = np.array(each) != start[path]
            yield batch

    how = StageSettings(train=what)
    set_policy(network, how)
    find_rate(network, watched(), how, from_logits=False, drawn=drawn)
    names = {path for path, each in moved.items() if each.any()}
    assert names == {
        *drawn,
        *(f"dense2_inserted_bn/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")),
    }
    for path, mask in drawn.items():
        assert not moved[path][~mask].any()


def test_it_ends_where_the_loss_diverges(splits: Splits) -> None:
    linear = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    set_policy(linear, StageSettings())
    trial = batches(splits.train, 50, seed=1, first=0, steps=STEPS)
    # Without a rescaling of the pixels, up to 255, plain gradient descent explodes soon.
    test = find_rate(linear, trial, StageSettings(optimizer="sgd"), from_logits=True)
    assert 20 < len(test.losses) < STEPS
    np.testing.assert_allclose(test.rates, RATES[: len(test.losses)])
    assert np.mean(test.losses[-5:]) > 4 * min(test.smoothed)
    assert all(
        np.mean(test.losses[:end][-5:]) <= 4 * smooth(test.losses[:end]).min()
        for end in range(1, len(test.losses))
    )
    assert test.found
    assert test.suggestion < test.rates[-1] / 10


def test_it_ends_where_the_loss_is_no_number(splits: Splits) -> None:
    network = plain_network(widths=[12])
    network.get_layer("head").kernel.assign(np.full((12, 10), np.nan))
    before = states(network)
    test = a_range_test(network, splits, StageSettings(learning_rate=0.3))
    assert states(network) == before
    assert (test.losses, test.suggestion, test.found) == ((), 0.3, False)


def test_a_stage_goes_on_with_the_suggestion_as_if_it_had_been_set(splits: Splits) -> None:
    tests: list[RateTest] = []
    found = network_with_batch_norm(dropout=0.3)
    how = StageSettings(train=["batch_norm"], steps=7, looks=2, learning_rate=1e-5)
    trained = train(found, splits, StageSettings(**{**vars(how), "find_rate": True}), on_rate=tests.append)
    (test,) = tests
    assert test.found
    assert trained.learning_rate == test.suggestion != how.learning_rate
    assert trained.history[0].learning_rate == pytest.approx(test.suggestion)
    stated = network_with_batch_norm(dropout=0.3)
    train(stated, splits, StageSettings(**{**vars(how), "learning_rate": test.suggestion}))
    assert fingerprint(found) == fingerprint(stated)


def test_a_stage_without_it_keeps_its_rate_and_says_nothing(splits: Splits) -> None:
    tests: list[RateTest] = []
    trained = train(
        plain_network(), splits, StageSettings(steps=1, learning_rate=0.004), on_rate=tests.append
    )
    assert (trained.learning_rate, tests) == (0.004, [])


def test_a_network_that_computes_no_number_is_told_by_the_stage(splits: Splits) -> None:
    network = plain_network()
    network.get_layer("head").bias.assign(np.full(10, np.nan))
    with pytest.raises(
        StageError, match=r"the loss is nan at step 1/2\. It began with head/bias, which is not"
    ):
        train(network, splits, StageSettings(find_rate=True, steps=2))
