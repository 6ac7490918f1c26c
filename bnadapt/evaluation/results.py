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
        calibration_error: Expected calibration error, 0 to 1: how far on average the probability that the
            network gives its answer lies from the share of such answers that are right.
        recall: Share predicted rightly of each class, shape ``(classes,)``; NaN for a class without images.
        correct: Whether each image was predicted rightly, shape ``(images,)``, in the split's order.
        predicted: Number of the predicted class, int64 of shape ``(images,)``, in the split's order.
    """

    accuracy: float
    loss: float
    macro_f1: float
    calibration_error: float
    recall: np.ndarray
    correct: np.ndarray
    predicted: np.ndarray


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


@dataclass(frozen=True)
class LayerGap:
    """How well one batch normalization layer's moving statistics describe what reaches it, and its gammas.

    Attributes:
        layer: Its path.
        channels: Their number.
        mean: Mean over the channels of |moving mean - exact mean| / exact standard deviation.
        deviation: Mean over the channels of |ln(moving standard deviation / exact standard deviation)|.
        gammas_near_zero: Share of the channels that gamma all but switches off, 0 to 1; NaN without gamma.
    """

    layer: str
    channels: int
    mean: float
    deviation: float
    gammas_near_zero: float


@dataclass(frozen=True)
class Diagnosis:
    """What batch normalization does in the network that a stage left.

    Attributes:
        layers: Each batch normalization layer, in graph order.
        images: Number of labelled images that both accuracies are of.
        inference_accuracy: Normalizing with the moving statistics, as when the network is used, 0 to 1.
        batch_accuracy: The same network on the same images normalizing with batches, as in training.
    """

    layers: tuple[LayerGap, ...]
    images: int
    inference_accuracy: float
    batch_accuracy: float


@dataclass(frozen=True)
class LayerShift:
    """How differently two data sets reach one batch normalization layer of the same network.

    Attributes:
        layer: Its path.
        channels: Their number.
        divergence: Symmetric Kullback-Leibler divergence of the channels' normal distributions, their mean, nats.
        mean: Mean over the channels of |difference of means| / the first data set's standard deviation.
        deviation: Mean over the channels of |ln of the ratio of standard deviations|.
    """

    layer: str
    channels: int
    divergence: float
    mean: float
    deviation: float


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
        learning_rate: The one that it began with, as set or as found; None where nothing trained or an earlier
            run did it.
        diagnosis: What its batch normalization does; None without any, or where nobody looked.
    """

    name: str
    trainable: int
    steps: int
    seconds: float
    history: list[Epoch] = field(default_factory=list)
    validation: Scores | None = None
    test: Scores | None = None
    kept_epoch: int = 0
    learning_rate: float | None = None
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True)
class Difference:
    """Accuracy of one network minus that of another on the same test images, with its 95 % interval.

    Attributes:
        estimate: The difference, -1 to 1.
        low: Lower end of the interval, -1 to 1.
        high: Upper end of the interval, -1 to 1.
        p_value: That the two are right equally often: of McNemar's test for two networks, of Student's distribution
            over seeds and images where each is trained with several seeds.
        gained: Number of images that only the first network predicts rightly, of all seeds together.
        lost: Number of images that only the second network predicts rightly, likewise.
    """

    estimate: float
    low: float
    high: float
    p_value: float
    gained: int
    lost: int


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


@dataclass(frozen=True)
class Advice:
    """Something to try next.

    Attributes:
        rule: The rule that it comes from, in a few words.
        sentence: What was seen, and what to try.
    """

    rule: str
    sentence: str
