"""How long a stage trains, and after which steps the validation images are looked at."""

from dataclasses import dataclass
from itertools import groupby, pairwise

import tensorflow as tf

from bnadapt.config import StageSettings
from bnadapt.data.splits import Split


@dataclass(frozen=True)
class Part:
    """Looks that follow each other after equally many steps; Keras' ``fit`` wants them so.

    Attributes:
        first: Number of looks before it.
        looks: How many it has.
        steps: Optimizer steps before each of its looks.
        done: Optimizer steps before it.
    """

    first: int
    looks: int
    steps: int
    done: int


@dataclass(frozen=True)
class Pace:
    """The looks of a stage at the validation images.

    Attributes:
        looks: Optimizer steps taken at each of them, rising; the last one is the stage's last step.
        counts: What a person counts: ``epoch`` or ``step``.
    """

    looks: tuple[int, ...]
    counts: str

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return self.looks[-1]

    def parts(self) -> list[Part]:
        """The looks as one part where they are equally far from each other, else as two."""
        gaps = [after - before for before, after in pairwise((0, *self.looks))]
        parts: list[Part] = []
        for steps, group in groupby(gaps):
            first = sum(part.looks for part in parts)
            done = sum(part.looks * part.steps for part in parts)
            parts.append(Part(first, len(list(group)), steps, done))
        return parts

    def at(self, number: int) -> str:
        """Where a look is, by its number from 1: "epoch 1/10" or "step 30/300"."""
        if self.counts == "epoch":
            return f"epoch {number}/{len(self.looks)}"
        return f"step {self.looks[number - 1]}/{self.steps}"


def pace_of(how: StageSettings, steps_per_epoch: int) -> Pace:
    """After which steps a stage looks at the validation images.

    With ``steps``: exactly so many, and ``looks`` looks, or as many as there are steps. Where the number of
    steps cannot be divided by that of the looks, the first ones are one step further apart than the others.
    Without: after every epoch.
    """
    if how.steps is None:
        return Pace(tuple(steps_per_epoch * number for number in range(1, how.epochs + 1)), "epoch")
    count = min(how.looks, how.steps)
    gap, longer = divmod(how.steps, count)
    return Pace(tuple(gap * number + min(number, longer) for number in range(1, count + 1)), "step")


def batches(split: Split, batch_size: int, *, seed: int, first: int, steps: int) -> tf.data.Dataset:
    """So many training batches, the first ``first`` left out, in the order of epochs that ``shuffled`` gives.

    The order does not depend on where it is taken up again: the batches of step 7 are those of step 7.
    """
    per_epoch = split.steps(batch_size)
    epoch, skipped = divmod(first, per_epoch)
    epochs = -(-(first + steps) // per_epoch)
    return split.shuffled(batch_size, seed=seed, epochs=epochs, first_epoch=epoch).skip(skipped).take(steps)
