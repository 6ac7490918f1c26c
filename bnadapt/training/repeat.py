"""Steps of a fit that are taken once more, to look at what happened in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from bnadapt.interruption import check_for_stop
from bnadapt.training.checkpoint import State, restore
from bnadapt.training.listening import is_finite


@dataclass(frozen=True, eq=False)
class Repeat:
    """Steps of a fit that can be taken again, to the last bit where the machine computes the same twice.

    Attributes:
        network: Compiled as in the fit; every method but ``batch`` changes its variables.
        state: Where to begin.
        data: Gives the batches behind so many steps, so many of them.
    """

    network: keras.Model
    state: State
    data: Callable[[int, int], Any]

    def after(self, steps: int, watched: Sequence[Any] = ()) -> int | None:
        """Bring the network to where it was after so many steps.

        Ends early, and returns the number of the step, where one of the ``watched`` variables is not finite after it;
        that of ``state`` where one is not even then.
        """
        restore(self.network, self.state)
        done = self.state.step
        if not _all_finite(watched):
            return done
        if steps <= done:
            return None
        watch = _Watch(watched)
        self.network.fit(
            self.data(done, steps - done),
            steps_per_epoch=steps - done,
            callbacks=[watch],
            shuffle=False,
            verbose=0,
        )
        return None if watch.found is None else done + watch.found

    def batch(self, step: int) -> tuple[Any, Any, Any]:
        """Images, labels, and weights or None of a step by its number from 1."""
        return keras.utils.unpack_x_y_sample_weight(next(iter(self.data(step - 1, 1))))


class _Watch(keras.callbacks.Callback):
    def __init__(self, variables: Sequence[Any]) -> None:
        super().__init__()
        self.found: int | None = None
        self._variables = variables
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        check_for_stop()
        self._step += 1
        if not _all_finite(self._variables):
            self.found = self._step
            self.model.stop_training = True


def _all_finite(variables: Sequence[Any]) -> bool:
    return all(is_finite(each) for each in variables)
