"""What can be recorded about the arms of a comparison."""

from collections.abc import Sequence
from dataclasses import asdict

from bnadapt.evaluation.arms import ArmResult, Comparison
from bnadapt.evaluation.results import Epoch, Scores
from bnadapt.tracking import names
from bnadapt.tracking.child import ChildRun


class ArmRun(ChildRun):
    """The run of one arm with one seed and one number of labels.

    Its curves are over the optimizer's steps, so that arms of different stages can be laid over each other.
    """

    def log_start(self, scores: Scores) -> None:
        """Record the validation scores before the first step, where the arm's curves begin."""
        self.log_epoch(0, {"val_accuracy": scores.accuracy, "val_loss": scores.loss})

    def log_result(self, result: ArmResult) -> None:
        """Record how the arm ended: its looks at the validation images, its scores, and the rates tried.

        Looks that :meth:`log_epoch` recorded while it trained are not recorded again.
        """
        looks = zip(result.looks, result.history, strict=True)
        self.log_epochs(
            [(steps, _metrics_of(epoch)) for steps, epoch in looks if steps > (self._last_step or 0)]
        )
        self.log_scores(result.validation)
        self.log_metrics(
            {
                names.TRAINABLE: result.trainable,
                names.STEPS: result.steps,
                names.ARM_SECONDS: result.seconds,
            }
        )
        rate = "none" if result.learning_rate is None else f"{result.learning_rate:g}"
        self.log_parameters(
            {
                "learning_rate": rate,
                "seed": result.seed,
                "labels_per_class": "all" if result.labels is None else result.labels,
            }
        )
        self.set_tags({"kept_stage": result.kept, "baseline": result.baseline[:12]})
        if result.rates:
            self.log_table([asdict(each) for each in result.rates], "rates.csv")
        if result.test is not None:
            self.log_test(result.test)

    def log_test(self, scores: Scores) -> None:
        """Record test scores, here and at the recorded network; also once the arm's block has ended."""
        self.link_scores(names.score_metrics("test", scores))


def arm_label(name: str, seed: object = None, labels: object = None) -> str:
    """What an arm's run is called, what differs first: ``bn_only s1 10/class``."""
    parts = [name]
    if seed is not None:
        parts.append(f"s{seed}")
    if labels not in (None, "", "all", "None"):
        parts.append(f"{labels}/class")
    return " ".join(parts)


def comparison_metrics(comparison: Comparison) -> dict[str, float]:
    """The recommended arm's accuracies, then those of every arm (means over the seeds), and the regret."""
    recommended = next(each for each in comparison.arms if each.arm == comparison.recommended)
    return {
        "val_accuracy": recommended.validation,
        "test_accuracy": recommended.test,
        **{names.accuracy_key("val", each.arm): each.validation for each in comparison.arms},
        **{names.accuracy_key("test", each.arm): each.test for each in comparison.arms},
        "regret": comparison.regret,
    }


def in_a_word(answers: Sequence[tuple[int | None, str]]) -> str:
    """The answer where it is the same for all numbers of labels; else each with its number."""
    if len({answer for _, answer in answers}) == 1:
        return answers[0][1]
    return ", ".join(f"{labels or 'all'}: {answer}" for labels, answer in answers)


def _metrics_of(epoch: Epoch) -> dict[str, float]:
    values = asdict(epoch)
    return {key: values[key] for key in ("val_accuracy", "val_loss", "accuracy", "loss", "learning_rate")}
