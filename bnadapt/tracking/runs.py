"""What can be recorded about a pipeline, about its stages, and about the arms of a comparison."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bnadapt.config import CONTROL
from bnadapt.evaluation.arms import Comparison
from bnadapt.evaluation.results import Scores, StageResult
from bnadapt.tracking import names
from bnadapt.tracking.child import ChildRun
from bnadapt.tracking.comparisons import ArmRun, arm_label, comparison_metrics, in_a_word
from bnadapt.tracking.nested import ParentRun
from bnadapt.tracking.ui import charts_page


class PipelineRun(ParentRun):
    """The run of a whole pipeline or comparison, parent of the runs of its stages or arms."""

    _best = -1.0

    @contextmanager
    def stage(
        self,
        name: str,
        *,
        order: int,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator["StageRun"]:
        """A child run that ends with the block: finished, failed with the error's text, or killed.

        It bears the pipeline's parameters, tags and data too, so that a filter finds parents and stages alike.
        """
        label = names.stage_label(order, name)
        own = {**(parameters or {}), names.STAGE: label}
        handle = self._open(label, {**(tags or {}), names.STAGE: label})
        stage = StageRun(self, label, handle, own)
        with stage._until_end(self.system_metrics):
            stage.log_text("config.yaml", self.config_yaml)
            yield stage

    def ended_stage(self, name: str, *, order: int) -> "StageRun":
        """The run of a stage that ended in an earlier process of this run, which stays ended.

        Its network is known, and test scores can be recorded.

        Raises:
            TrackingError: there is no such stage.
        """
        label = names.stage_label(order, name)
        stage = StageRun(self, label, self._ended(label), {})
        stage._attach()
        return stage

    @contextmanager
    def arm(
        self,
        name: str,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[ArmRun]:
        """A child run for one arm of a comparison, with one seed; it ends with the block, as a stage's does.

        Args:
            name: Of the arm; the run is called after it, its seed and its number of labels.
            parameters: What tells it from the others: ``seed``, ``labels_per_class``, ``learning_rate``.
            tags: Anything else that it is searched by.
        """
        own = {names.ARM: name, **(parameters or {})}
        label = arm_label(name, own.get("seed"), own.get("labels_per_class"))
        arm = ArmRun(self, label, self._open(label, {**(tags or {}), names.ARM: name}), own)
        with arm._until_end(self.system_metrics):
            yield arm

    def ended_arm(self, name: str, parameters: Mapping[str, Any] | None = None) -> ArmRun:
        """The run of an arm that ended in an earlier process of this run, as :meth:`ended_stage` for a stage."""
        own = {names.ARM: name, **(parameters or {})}
        label = arm_label(name, own.get("seed"), own.get("labels_per_class"))
        arm = ArmRun(self, label, self._ended(label), own)
        arm._attach()
        return arm

    def log_test(self, label: str, scores: Scores) -> None:
        """Record a stage's test accuracy among those of all stages, as ``test/4_finetune``."""
        self.log_metrics({names.accuracy_key("test", label): scores.accuracy})

    def log_validation(self, label: str, result: StageResult) -> None:
        """Record a stage's validation accuracy among those of all stages, as ``val/4_finetune``.

        The best so far, the control aside, is the pipeline's own ``val_accuracy`` as long as it runs, at a step for
        every stage.
        """
        assert result.validation is not None
        accuracy = result.validation.accuracy
        metrics = {names.accuracy_key("val", label): accuracy}
        if result.name != CONTROL and accuracy > self._best_validation():
            self._best = accuracy
            # First, because MLflow compares runs by that one.
            self.log_metrics({"val_accuracy": accuracy}, step=names.stage_place(label))
        self.log_metrics(metrics)

    def _best_validation(self) -> float:
        """The highest accuracy of the stages that ended, the control aside, those of earlier processes included."""
        before = [
            value
            for (key, _), (value, _) in self._steps.earlier.items()
            if key.startswith(names.accuracy_key("val", "")) and names.stage_name(key) != CONTROL
        ]
        return max([self._best, *before])

    def log_best(self, label: str, result: StageResult) -> None:
        """Record the scores of the stage that is kept as those of the pipeline, and its label as a tag.

        They stand one step after the last stage, so that they are what MLflow shows.
        """
        step = 1 + max((names.stage_place(child.label) for child in self._children), default=0)
        for prefix, scores in (("val", result.validation), ("test", result.test)):
            if scores is not None:
                self.log_metrics(names.score_metrics(prefix, scores), step=step)
        self.set_tags({"best_stage": label})
        for child in self._children:
            if child.label == label:
                self.show(child)

    def log_verdict(self, answer: str) -> None:
        """Record in a word whether it helped, as a tag of this run and of its stages."""
        self.tag_all({names.VERDICT: answer})

    def log_comparisons(self, comparisons: Sequence[Comparison]) -> None:
        """Record what a comparison found: every arm's mean accuracies, the regret, what is recommended.

        The keys are ``val/ARM`` and ``test/ARM``. Of several numbers of labels each is a step, so that MLflow
        draws curves over the labels; a single one is at step 0, so that it draws bars. All images, where other
        numbers are there too, come at the power of ten above those. The recommended arm's means are
        ``val_accuracy`` and ``test_accuracy``, those with the most labels where there are several. The arms'
        runs get the tags ``recommended`` and ``verdict`` as well.
        """
        for step, comparison in names.steps_of_labels(comparisons):
            self.log_metrics(comparison_metrics(comparison), step=step)
        recommended = in_a_word([(each.labels, each.recommended) for each in comparisons])
        verdict = in_a_word([(each.labels, each.answer) for each in comparisons])
        self.tag_all({names.RECOMMENDED: recommended, names.VERDICT: verdict})

    def describe(self, text: str) -> None:
        """Put Markdown above the command into the run's description, which MLflow shows first.

        A link to the curves of all runs below this one stands between the two.
        """
        link = f"[All {len(self._children)} runs below this one, side by side]"
        text += f"\n\n{link}({charts_page(self.experiment_id, below=self.run_id)})"
        self.set_tags({names.DESCRIPTION: names.description(self.command, text)})


class StageRun(ChildRun):
    """The run of one stage."""

    def log_result(self, result: StageResult) -> None:
        """Record how the stage ended, here and among the stages of the pipeline."""
        if result.validation is not None:
            self.log_scores(result.validation)
        totals = {
            names.TRAINABLE: result.trainable,
            names.STEPS: result.steps,
            names.SECONDS: result.seconds,
            names.KEPT_EPOCH: result.kept_epoch,
        }
        self.log_metrics(totals)  # at step 0 everywhere, so that MLflow draws bars
        if result.validation is not None and isinstance(self._parent, PipelineRun):
            self._parent.log_validation(self.label, result)

    def log_test(self, scores: Scores) -> None:
        """Record test scores, here, among the stages of the pipeline, and at the recorded network."""
        self.link_scores(names.score_metrics("test", scores))
        if isinstance(self._parent, PipelineRun):
            self._parent.log_test(self.label, scores)
