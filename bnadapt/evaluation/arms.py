"""What a comparison is made of: the ways to go on from one baseline, and what each of them reached."""

from dataclasses import dataclass

from bnadapt.evaluation.results import Difference, Epoch, Scores


@dataclass(frozen=True)
class RateTried:
    """One learning rate that was tried, and the validation scores that it led to."""

    learning_rate: float
    accuracy: float
    loss: float


@dataclass(frozen=True)
class ArmResult:
    """One arm with one seed and one number of labels, as it ended.

    Attributes:
        arm: Its name.
        seed: Of this repetition.
        labels: Labelled images of each class that it trained on; None for all.
        baseline: SHA-256 of the weights that it went on from; the same for all arms of a repetition.
        learning_rate: The one that was kept; None where nothing trains by gradients.
        rates: All that were tried here, in order; empty where the rate was taken over or nothing trains.
        trainable: Number of parameters (scalars) that trained at most.
        steps: Optimizer steps taken at the kept rate.
        seconds: Wall time, of all rates together.
        kept: Name of the stage whose network was kept.
        history: Its looks at the validation images, over all stages in order; ``number`` counts them from 1.
        looks: Optimizer steps taken at each of them, as many as ``history``.
        validation: Scores on the validation images.
        test: Scores on the test images, once everything else has ended.
    """

    arm: str
    seed: int
    labels: int | None
    baseline: str
    learning_rate: float | None
    rates: tuple[RateTried, ...]
    trainable: int
    steps: int
    seconds: float
    kept: str
    history: tuple[Epoch, ...]
    looks: tuple[int, ...]
    validation: Scores
    test: Scores | None = None


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all seeds, with one number of labels.

    Attributes:
        arm: Its name.
        validation: Mean validation accuracy, 0 to 1.
        test: Mean test accuracy, 0 to 1.
        low: Lower end of the 95 % interval of ``test`` over seeds and test images.
        high: Upper end of it.
        macro_f1: Mean macro F1 on the test images.
        calibration_error: Mean expected calibration error on the test images.
        loss: Mean loss on the test images, nats.
        learning_rates: The kept one of each seed, None where nothing trains.
        trainable: Parameters that trained at most.
        seconds: Mean wall time.
        against_reference: Test accuracy minus that of the reference arm; None for the reference itself.
        against_untouched: Test accuracy minus that of the untouched baseline; None for the untouched itself.
        adjusted: p-value of ``against_reference`` corrected for the number of arms (Holm); None likewise.
    """

    arm: str
    validation: float
    test: float
    low: float
    high: float
    macro_f1: float
    calibration_error: float
    loss: float
    learning_rates: tuple[float | None, ...]
    trainable: int
    seconds: float
    against_reference: Difference | None
    against_untouched: Difference | None
    adjusted: float | None


@dataclass(frozen=True)
class Comparison:
    """What a comparison found with one number of labels.

    Attributes:
        labels: Labelled images of each class; None for all.
        reference: Name of the arm that gains are measured against.
        recommended: Name of the arm to use, from validation alone.
        best_in_hindsight: Name of the arm with the highest mean test accuracy.
        regret: Mean test accuracy of ``best_in_hindsight`` minus that of ``recommended``, 0 or more.
        arms: Every arm, in the comparison's order.
        answer: ``helped``, ``hurt``, ``no difference`` or ``not compared``, of the recommended arm.
        sentences: Plain statements, the answer first.
    """

    labels: int | None
    reference: str
    recommended: str
    best_in_hindsight: str
    regret: float
    arms: tuple[ArmSummary, ...]
    answer: str
    sentences: tuple[str, ...]
