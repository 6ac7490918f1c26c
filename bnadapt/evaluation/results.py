"""What a stage and a pipeline leave behind, as plain values that can be printed, plotted and logged."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Scores:
    """How well a network predicts one split.

    Attributes:
        accuracy: Share of images whose class is predicted, 0 to 1.
        loss: Mean cross-entropy in nats.
        macro_f1: Mean over classes of the harmonic mean of precision and recall, 0 to 1.
        recall: Share predicted rightly of each class, shape ``(classes,)``; NaN for a class without images.
        correct: Whether each image was predicted rightly, shape ``(images,)``, in the split's order.
    """

    accuracy: float
    loss: float
    macro_f1: float
    recall: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True)
class Epoch:
    """One epoch's metrics: means over its training steps, and over the validation images after it."""

    number: int
    accuracy: float
    loss: float
    val_accuracy: float
    val_loss: float
    learning_rate: float
    seconds: float


@dataclass
class StageResult:
    """One stage of a pipeline as it ended.

    Attributes:
        name: ``baseline``, ``insert``, a stage of the schedule, or ``control``.
        trainable: Number of trainable parameters (scalars) during the stage.
        steps: Optimizer steps taken.
        seconds: Wall time of the stage.
        history: Its epochs, empty for a stage that trains nothing.
        validation: Scores on the validation images after the stage.
        test: Scores on the test images, once evaluated.
        kept_epoch: Number of the epoch whose weights were kept; 0 where nothing trained.
    """

    name: str
    trainable: int
    steps: int
    seconds: float
    history: list[Epoch] = field(default_factory=list)
    validation: Scores | None = None
    test: Scores | None = None
    kept_epoch: int = 0


@dataclass(frozen=True)
class Difference:
    """Accuracy of one network minus that of another on the same test images, with its 95 % interval.

    All three are shares, -1 to 1.
    """

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """What the pipeline found.

    Attributes:
        best: Name of the stage with the highest validation accuracy (the earliest, where several tie).
        sentences: Plain statements, the answer first.
        against_baseline: Best stage minus the untouched baseline; None where the baseline is unknown.
        against_control: Best stage minus the control; None where there is no control.
        answer: ``helped``, ``uncontrolled``, ``hurt``, ``no difference`` or ``not compared``.
    """

    best: str
    sentences: tuple[str, ...]
    against_baseline: Difference | None
    against_control: Difference | None
    answer: str
