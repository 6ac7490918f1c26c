"""Interrupted anywhere and gone on with by another process, a fit ends with the same bits."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import pytest
from interruptions import Interrupting, interrupted_at_the_end, state_of, without_times
from small_stages import network_with_batch_norm, plain_network, train

from bnadapt.config import StageSettings
from bnadapt.data.splits import Splits
from bnadapt.evaluation.results import Epoch
from bnadapt.normalization.proof import fingerprint
from bnadapt.training.fit import Trained
from bnadapt.training.rate import RateTest
from tests.digits import digit_splits

CNN = {"kind": "cnn", "filters": [4, 6], "widths": [12], "dropout": 0.3}
MLP = {"widths": [12, 10], "dropout": 0.3}


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digit_splits(train=260, validation=60)  # five steps of 50 an epoch


@dataclass(frozen=True)
class Fit:
    """One fit, from a file of its initial weights, as each process makes it anew."""

    start: Path
    checkpoint: Path
    splits: Splits
    how: StageSettings
    every_steps: int | None = None

    def run(self, checkpoint: Path | None = None, **changes: Any) -> tuple[keras.Model, Trained]:
        network = keras.models.load_model(self.start)
        arguments = {
            "splits": self.splits,
            "checkpoint": checkpoint,
            "every_steps": self.every_steps,
            **changes,
        }
        return network, train(network, arguments.pop("splits"), self.how, **arguments)

    def stop(self, **changes: Any) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.run(self.checkpoint, **changes)
        assert not list(self.checkpoint.parent.glob(".*"))

    def go_on(self, **changes: Any) -> tuple[keras.Model, Trained]:
        return self.run(self.checkpoint, **changes)


def prepare(
    directory: Path, splits: Splits, how: StageSettings, network: keras.Model, every_steps: int | None = None
) -> Fit:
    start = directory / "start.keras"
    network.save(start)
    return Fit(start, directory / "fits" / "adapt.checkpoint", splits, how, every_steps)


def assert_same(one: tuple[keras.Model, Trained], other: tuple[keras.Model, Trained]) -> None:
    assert without_times(one[1]) == without_times(other[1])
    assert state_of(one[0]) == state_of(other[0])


HOWS = {
    "adam, cosine, a convolutional network": (
        StageSettings(epochs=3, decay="cosine", learning_rate=0.01, keep="last"),
        CNN,
        2,
    ),
    "adamw, layerwise decay, looks at unequal distances": (
        StageSettings(steps=11, looks=3, optimizer="adamw", weight_decay=0.1, layerwise_decay=0.5),
        MLP,
        3,
    ),
    "sgd, a range test, drawn entries": (
        StageSettings(train=["2 per channel", "head"], epochs=2, optimizer="sgd", find_rate=True),
        MLP,
        4,
    ),
}


SLOW = {"adam, cosine, a convolutional network", "sgd, a range test, drawn entries"}


@pytest.mark.fault(
    "training: a fit stopped twice",
    "goes on from its checkpoint; weights, optimizer and looks bit-identical",
)
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in HOWS]
)
def test_interrupted_twice_a_fit_ends_with_the_same_bits(splits: Splits, tmp_path: Path, case: str) -> None:
    how, settings, every_steps = HOWS[case]
    fit = prepare(tmp_path, splits, how, network_with_batch_norm(**settings), every_steps)
    whole = fit.run()
    told: list[Epoch] = []
    tests: list[RateTest] = []
    fit.stop(display=Interrupting(step=4), on_rate=tests.append)
    fit.stop(display=Interrupting(step=9), on_rate=tests.append)
    resumed = fit.go_on(on_epoch=told.append, on_rate=tests.append)
    assert len(tests) == how.find_rate
    assert_same(whole, resumed)
    # Looks from before are not told again, and the times of all processes add up.
    assert [epoch.number for epoch in told] == [look.number for look in whole[1].history][-len(told) :]
    assert 0 < len(told) < len(whole[1].history)
    assert resumed[1].seconds_before > 0
    assert whole[1].seconds_before == 0


@pytest.mark.fault(
    "training: a fit stopped at any step, look or end",
    "goes on from its checkpoint; weights, optimizer and looks bit-identical",
)
@pytest.mark.parametrize(
    "moment",
    ["policy", "rate", *(f"step {n}" for n in range(1, 12)), "look 1", "look 2", "look 3", "epoch 2", "end"],
)
@pytest.mark.parametrize("every_steps", [None, 1, 3])
@pytest.mark.slow
def test_interrupted_anywhere(splits: Splits, tmp_path: Path, moment: str, every_steps: int | None) -> None:
    how = StageSettings(steps=11, looks=3, learning_rate=0.01, find_rate=moment == "rate")
    fit = prepare(tmp_path, splits, how, network_with_batch_norm(**MLP), every_steps)
    whole = fit.run()

    def interrupt(what: Any) -> None:
        if not isinstance(what, Epoch) or f"epoch {what.number}" == moment:
            raise KeyboardInterrupt

    name, _, number = moment.partition(" ")
    stops: dict[str, dict[str, Any]] = {
        "policy": {"on_policy": interrupt},
        "rate": {"on_rate": interrupt},
        "step": {"display": Interrupting(step=int(number or 0))},
        "look": {"display": Interrupting(look=int(number or 0))},
        "epoch": {"on_epoch": interrupt},
        "end": {"splits": interrupted_at_the_end(splits)},
    }
    fit.stop(**stops[name])
    assert_same(whole, fit.go_on())


@pytest.mark.fault(
    "training: every kind of stage and optimizer stopped",
    "goes on from its checkpoint; weights, optimizer and looks bit-identical",
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize(
    "changes",
    [
        {"decay": "cosine"},
        {"layerwise_decay": 0.3},
        {"train": ["2 per channel"]},
        {"find_rate": True},
        {"keep": "last", "reestimate": False},
        {"train": ["batch_norm"], "normalize": "moving"},
    ],
    ids=str,
)
@pytest.mark.slow
def test_every_kind_of_stage(splits: Splits, tmp_path: Path, optimizer: str, changes: dict[str, Any]) -> None:
    how = replace(StageSettings(epochs=3, optimizer=optimizer, learning_rate=0.01), **changes)
    fit = prepare(tmp_path, splits, how, network_with_batch_norm(**CNN), 3)
    whole = fit.run()
    fit.stop(display=Interrupting(step=8))
    assert_same(whole, fit.go_on())


def test_a_fit_that_ended_is_given_back_and_not_trained_again(splits: Splits, tmp_path: Path) -> None:
    how = StageSettings(train=["2 per channel"], epochs=2, find_rate=True, patience=1)
    fit = prepare(tmp_path, splits, how, network_with_batch_norm(**MLP))
    whole = fit.go_on()

    def never(_: Any) -> None:
        raise AssertionError("nothing trains")

    again = fit.go_on(on_epoch=never, on_policy=never, on_rate=never, display=Interrupting(step=1))
    assert_same(whole, again)
    assert again[1].seconds_before > sum(look.seconds for look in whole[1].history)
    assert [each.path for each in again[0].trainable_variables] == [
        each.path for each in whole[0].trainable_variables
    ]
    assert type(again[0].optimizer) is keras.optimizers.Adam  # and a saved one loads anywhere


@pytest.mark.slow
def test_patience_goes_on_counting_and_what_it_has_ended_takes_no_further_step(
    splits: Splits, tmp_path: Path
) -> None:
    how = StageSettings(epochs=9, learning_rate=0.1, patience=3)
    fit = prepare(tmp_path, splits, how, network_with_batch_norm(**MLP))
    whole = fit.run()
    last = len(whole[1].history)
    assert 3 < last < 9
    fit.stop(display=Interrupting(look=last))
    fit.stop(splits=interrupted_at_the_end(splits))
    assert_same(whole, fit.go_on(display=Interrupting(step=last * 5 + 1)))


def test_a_stage_of_statistics_alone_is_given_back_too(splits: Splits, tmp_path: Path) -> None:
    fit = prepare(
        tmp_path, splits, StageSettings(train=["statistics"], prior=20), network_with_batch_norm(**MLP)
    )
    whole = fit.go_on()
    cannot_be_read = interrupted_at_the_end(splits)
    assert_same(whole, fit.go_on(splits=cannot_be_read))
    fit.checkpoint.unlink()
    fit.stop(splits=cannot_be_read)
    assert not fit.checkpoint.exists()
    assert fingerprint(fit.go_on()[0]) == fingerprint(whole[0])


def test_a_stage_that_does_nothing_writes_nothing(splits: Splits, tmp_path: Path) -> None:
    fit = prepare(tmp_path, splits, StageSettings(epochs=0), plain_network())
    assert fit.go_on()[1] == Trained(0, (), 0, 0, ())
    assert not fit.checkpoint.parent.exists()


@pytest.mark.slow
def test_what_a_stage_does_depends_on_no_stage_before_it_in_the_process(
    splits: Splits, tmp_path: Path
) -> None:
    network = plain_network(**MLP)
    train(network, splits, StageSettings(epochs=1))
    network.save(tmp_path / "first.keras")
    second = StageSettings(epochs=1, keep="last")
    train(network, splits, second, seed=9)
    loaded = keras.models.load_model(tmp_path / "first.keras")
    train(loaded, splits, second, seed=9)
    assert state_of(network) == state_of(loaded)
