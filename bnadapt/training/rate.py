"""A learning rate from a range test: a short trial at ever higher rates, then undone to the last bit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from bnadapt.config import StageSettings
from bnadapt.errors import FrozenWeightMovedError
from bnadapt.normalization.proof import fingerprint
from bnadapt.training.optimizer import compile_for

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
_DIVERGED = 4.0  # times the lowest smoothed loss
_BELOW_LOWEST = 10.0
_STILL = 20  # steps at rates that change next to nothing: what the loss was, and how much batches differ
# In standard deviations of single batches: three standard errors of a window's mean against that of the beginning,
# because the lowest of some eleven independent windows is taken.
_DESCENT = 1.25
_HALF_WINDOW = 4


@dataclass(frozen=True)
class RateTest:
    """What a range test saw.

    Attributes:
        rates: Learning rate of each step.
        losses: Loss of each step's batch, before the step.
        smoothed: Means of ``losses`` over windows of nine steps centred on each, shorter at both ends.
        suggestion: The learning rate to use.
        found: False where the loss did not descend, and ``suggestion`` is the stage's own learning_rate.
        explanation: One sentence on how ``suggestion`` came about.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float
    found: bool
    explanation: str


def find_rate(
    network: keras.Model,
    batches: Any,
    how: StageSettings,
    *,
    from_logits: bool,
    drawn: Mapping[str, np.ndarray] | None = None,
    steps: int = STEPS,
) -> RateTest:
    """Train with a rate that rises exponentially from 1e-6 to 1, put everything back, and suggest a rate.

    The range test of Smith, 2017, "Cyclical Learning Rates for Training Neural Networks", which ends where the
    smoothed loss exceeds four times its lowest or is no number. What trains is what the stage trains: its
    flags, its optimizer, its layer-wise rates and drawn entries.

    Args:
        network: With the policy of the stage set. Weights, moving statistics and the states of seed generators
            are afterwards what they were, bit for bit; the compiled state is another.
        batches: At least ``steps`` batches of (images, labels).
        how: The stage; its learning_rate is the suggestion where the loss does not descend.
        from_logits: Whether the outputs are logits.
        drawn: Which entries of some weights train, as from ``drawn_entries``.
        steps: At most so many, 2 or more.

    Raises:
        FrozenWeightMovedError: a weight is not what it was.
    """
    compile_for(network, how, _Rising(steps), from_logits=from_logits, drawn=drawn)
    watch = _Watch()
    with _undone(network):
        network.fit(batches, steps_per_epoch=steps, callbacks=[watch], shuffle=False, verbose=0)
    rates = [LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1)) for step in range(len(watch.losses))]
    return suggest(rates, watch.losses, otherwise=how.learning_rate)


def suggest(rates: Sequence[float], losses: Sequence[float], *, otherwise: float) -> RateTest:
    """A tenth of the rate at which the smoothed loss was lowest.

    Of the two usual readings, the steepest descent and the lowest loss divided by ten (Gugger, 2018, "How do you
    find a good learning rate"; both in fastai's ``lr_find``), the second: single batches disturb a slope more
    than a mean. The windows are centred, so that smoothing does not move the lowest point to higher
    rates, and the beginning of divergence moves it to lower ones. The loss counts as having descended where
    it fell from that of the first twenty steps by more than chance among batches explains (1.25 standard
    deviations of theirs), and by more than a hundredth.

    Args:
        rates: Rising.
        losses: As many, before the step at each rate; finite.
        otherwise: The suggestion where the loss did not descend.
    """
    smoothed = smooth(losses)
    at_start = np.asarray(losses[:_STILL], "float64")
    if len(losses) > _STILL:
        start, spread = float(at_start.mean()), float(at_start.std(ddof=1))
        lowest = int(np.argmin(smoothed))
        if start - smoothed[lowest] > max(_DESCENT * spread, abs(start) / 100):
            suggestion = rates[lowest] / _BELOW_LOWEST
            explanation = (
                f"a tenth of {rates[lowest]:.2g}, at which the loss was lowest ({start:.3g} before, "
                f"{smoothed[lowest]:.3g} there)"
            )
            return RateTest(
                tuple(rates), tuple(losses), tuple(smoothed.tolist()), suggestion, True, explanation
            )
    explanation = (
        f"the loss did not descend in {len(losses)} steps at rising rates: learning_rate stays {otherwise:g}"
    )
    return RateTest(tuple(rates), tuple(losses), tuple(smoothed.tolist()), otherwise, False, explanation)


def smooth(losses: Sequence[float]) -> np.ndarray:
    """Means over windows of nine centred on each loss, shorter at both ends; float64."""
    values = np.asarray(losses, "float64")
    return np.array(
        [
            values[max(0, index - _HALF_WINDOW) : index + _HALF_WINDOW + 1].mean()
            for index in range(len(values))
        ]
    )


class _Rising(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, step: Any) -> Any:
        share = keras.ops.cast(step, "float32") / (self.steps - 1)
        return LOWEST * keras.ops.power(HIGHEST / LOWEST, share)


class _Watch(keras.callbacks.Callback):
    """Keeps the loss of every batch, and ends the test where it has diverged."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss = float((logs or {})["loss"])
        self.model.reset_metrics()  # Keras reports means since the last reset
        if not math.isfinite(loss):
            self.model.stop_training = True
            return
        self.losses.append(loss)
        smoothed = smooth(self.losses)
        if smoothed[-1] > _DIVERGED * smoothed.min():
            self.model.stop_training = True


@contextmanager
def _undone(network: keras.Model) -> Iterator[None]:
    """Put every variable back at the end, the states of seed generators included, and prove it."""
    before = fingerprint(network)
    values = [(variable, keras.ops.convert_to_numpy(variable).copy()) for variable in network.variables]
    try:
        yield
    finally:
        for variable, value in values:
            variable.assign(value)
    after = fingerprint(network)
    changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
    if changed:
        raise FrozenWeightMovedError(f"the range test was to leave no trace, and left {', '.join(changed)}")
