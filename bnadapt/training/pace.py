"""How long a stage trains, and after which steps the validation images are looked at."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
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

    def parts(self, done: int = 0) -> list[Part]:
        """The looks that are to come after ``done`` steps, those together that are equally far from each other.

        From the beginning that is one part, or two. In the middle of a gap the first part has what is left of it.
        """
        looked = bisect_right(self.looks, done)
        gaps = [after - before for before, after in pairwise((done, *self.looks[looked:]))]
        parts: list[Part] = []
        for steps, group in groupby(gaps):
            looks = len(list(group))
            parts.append(Part(looked, looks, steps, done))
            looked, done = looked + looks, done + looks * steps
        return parts

    def at(self, number: int) -> str:
        """Where a look is, by its number from 1: "epoch 1/10" or "step 30/300"."""
        if self.counts == "epoch":
            return f"epoch {number}/{len(self.looks)}"
        return f"step {self.looks[number - 1]}/{self.steps}"

    def at_step(self, step: int) -> str:
        """Where a step is, by its number from 1: "step 7 (epoch 1/10)" or "step 7/300"."""
        if self.counts == "epoch":
            return f"step {step} ({self.at(bisect_left(self.looks, step) + 1)})"
        return f"step {step}/{self.steps}"


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


def batches(
    split: Split,
    batch_size: int,
    *,
    seed: int,
    first: int,
    steps: int,
    class_weights: np.ndarray | None = None,
) -> tf.data.Dataset:
    """So many training batches, the first ``first`` left out, in the order of epochs that ``shuffled`` gives.

    The order does not depend on where it is taken up again: the batches of step 7 are those of step 7. With
    ``class_weights``, float32 of shape ``(classes,)``, every batch has the weight of each image's class as its
    third part. Keras multiplies the loss of each image by it and divides the sum by the number of images, not by
    the sum of the weights, as ``fit(class_weight=)`` does; metrics stay without weights.
    """
    per_epoch = split.steps(batch_size)
    epoch, skipped = divmod(first, per_epoch)
    epochs = -(-(first + steps) // per_epoch)
    taken = split.shuffled(batch_size, seed=seed, epochs=epochs, first_epoch=epoch).skip(skipped).take(steps)
    if class_weights is None:
        return taken
    return taken.map(lambda images, labels: (images, labels, tf.gather(class_weights, labels)))
