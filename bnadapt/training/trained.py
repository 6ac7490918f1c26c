"""What training a stage did, as a value that can be kept and told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bnadapt.evaluation.results import Epoch


@dataclass(frozen=True)
class Trained:
    """What training a stage did.

    Attributes:
        trainable: Number of parameters (scalars) that trained.
        history: Its looks at the validation images in order: its epochs, or those that ``looks`` asks for.
        steps: Optimizer steps taken.
        kept_epoch: Number of the look whose weights were kept; 0 where nothing trained.
        moved: Paths of the variables that changed, all of them declared.
        looks: Optimizer steps taken at each entry of ``history``.
        learning_rate: The one that the stage began with, as set or as found; None where nothing trained.
        seconds_before: Wall time that earlier processes spent on it, which were interrupted.
    """

    trainable: int
    history: tuple[Epoch, ...]
    steps: int
    kept_epoch: int
    moved: tuple[str, ...]
    looks: tuple[int, ...] = ()
    learning_rate: float | None = None
    seconds_before: float = 0.0

    def then(self, further: "Trained") -> "Trained":
        """This training and a further one of the same network as one, the further one's looks counted on.

        The learning rate is the further one's, where it trained.
        """
        done = len(self.history)
        return Trained(
            trainable=max(self.trainable, further.trainable),
            history=(
                *self.history,
                *(replace(epoch, number=epoch.number + done) for epoch in further.history),
            ),
            steps=self.steps + further.steps,
            kept_epoch=further.kept_epoch + done if further.history else self.kept_epoch,
            moved=tuple(sorted({*self.moved, *further.moved})),
            looks=(*self.looks, *(steps + self.steps for steps in further.looks)),
            learning_rate=self.learning_rate if further.learning_rate is None else further.learning_rate,
            seconds_before=self.seconds_before + further.seconds_before,
        )


def trained_from(plain: Mapping[str, Any]) -> Trained:
    """What ``dataclasses.asdict`` and JSON made plain, as it was; raises a TypeError or KeyError for anything else."""
    return Trained(
        **{
            **plain,
            "history": history_from(plain["history"]),
            "moved": tuple(plain["moved"]),
            "looks": tuple(plain["looks"]),
        }
    )


def history_from(plain: Any) -> tuple[Epoch, ...]:
    """Looks from a list of mappings, likewise."""
    return tuple(Epoch(**each) for each in plain)
