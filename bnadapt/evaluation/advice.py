"""What to try next, by stated rules over what training and the validation images show.

The test images have no say here: who goes on by what they showed has chosen by them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bnadapt.config import CONTROL, INSERT, StageSettings
from bnadapt.evaluation.results import Advice, Epoch, LayerGap, Scores, StageResult
from bnadapt.evaluation.significance import CONFIDENCE, mcnemar, wilson, wilson_of
from bnadapt.surgery.sites import INSERTED

# Each rule's threshold; a share of 1, or of what the quantity was before.
STILL_FALLING = 0.02  # of the validation loss, from the last epoch but one to the last
LOSS_ROSE = 0.05  # of the validation loss, from before the stage to after it
LOSS_STAYED = 0.01  # the same, in either direction
LEARNED_BY_HEART = 0.05  # training accuracy above validation accuracy
FITS_POORLY = 0.95  # training accuracy below this, and validation accuracy no lower
STATISTICS_OFF = 0.25  # gap of means in deviations, or of deviations in logarithms, of any layer
MODES_APART = 0.02  # between accuracies with batch and with moving statistics
FEW_LABELS = 50  # training images per class
EASY = 0.99  # validation accuracy from which more labels are not worth asking for
UNSURE = 0.02  # half of the interval of the kept stage's validation accuracy

EVERYTHING, ONLY_BATCH_NORM = "all", ["batch_norm"]
FROZEN = "schedule.{stage}.statistics=stay schedule.{stage}.normalize=moving"


@dataclass(frozen=True)
class Evidence:
    """What advice is drawn from.

    Attributes:
        results: Of all stages in order; of their scores only those on validation images are used.
        best: Name of the stage that is kept.
        schedule: The training stages' settings by name.
        placement: Where batch normalization was put: ``before_activation``, ``after_activation``, ``input``, one of
            the first two and ``, input``, or ``none``.
        training_images: Number of labelled images that the schedule trained on.
        classes: Number of classes.
        batch_size: Images per step.
        calibrated: Whether insertion took its statistics from data, here or where the network comes from.
    """

    results: Sequence[StageResult]
    best: str
    schedule: Mapping[str, StageSettings]
    placement: str
    training_images: int
    classes: int
    batch_size: int
    calibrated: bool

    @property
    def chain(self) -> list[StageResult]:
        """The stages that build on each other, from the baseline on."""
        return [result for result in self.results if result.name != CONTROL]

    @property
    def trained(self) -> list[StageResult]:
        """The schedule's stages that took steps."""
        return [result for result in self.chain if result.name in self.schedule and result.history]

    @property
    def subject(self) -> StageResult | None:
        """The stage to look at closely: the kept one where it was trained, else the last that was."""
        kept = [result for result in self.trained if result.name == self.best]
        looked_at = kept or self.trained
        return looked_at[-1] if looked_at else None

    def validation(self, name: str) -> Scores | None:
        """A stage's scores on the validation images."""
        return next((result.validation for result in self.results if result.name == name), None)

    def before(self, stage: StageResult) -> Scores | None:
        """The validation scores that a stage of the chain started from."""
        place = [result.name for result in self.chain].index(stage.name)
        return self.chain[place - 1].validation if place else None


def advise(evidence: Evidence) -> tuple[Advice, ...]:
    """What to try next, the most pressing first; () where no rule applies."""
    found = [(name, rule(evidence)) for name, rule in RULES]
    return tuple(Advice(name, sentence) for name, sentence in found if sentence is not None)


def _not_calibrated(evidence: Evidence) -> str | None:
    """Not calibrated, and some inserted layer starts with statistics that are off by 0.25: calibrate it."""
    inserted = next((result for result in evidence.chain if result.name == INSERT), None)
    if evidence.calibrated or inserted is None or inserted.diagnosis is None:
        return None
    worst = max((_gap(each) for each in inserted.diagnosis.layers if INSERTED in each.layer), default=0.0)
    if worst <= STATISTICS_OFF:
        return None
    return (
        "Batch normalization was inserted with statistics that are not those of the images, so that training "
        "began with another function than the baseline's: insertion.init=calibrated"
    )


def _statistics_do_not_fit(evidence: Evidence) -> str | None:
    """Some layer's moving statistics are off by 0.25: measure them anew."""
    stage = evidence.subject
    if stage is None or stage.diagnosis is None:
        return None
    worst = max(stage.diagnosis.layers, key=_gap)
    if _gap(worst) <= STATISTICS_OFF:
        return None
    how = evidence.schedule[stage.name]
    if how.reestimate and _normalizes_with_batches(how):
        remedy = "measure them on more images: insertion.samples=null"
    elif _normalizes_with_batches(how):
        remedy = f"measure them anew: schedule.{stage.name}.reestimate=true"
    else:
        remedy = "let a stage before it take them from these images, such as schedule=statistics_then_affine"
    return (
        f"After {stage.name} the moving statistics of {worst.layer} are not those of the training images (means "
        f"{worst.mean:.2g} deviations apart, deviations {100 * math.expm1(worst.deviation):.0f} % apart): {remedy}"
    )


def _modes_disagree(evidence: Evidence) -> str | None:
    """Accuracies with batch and moving statistics differ by 2 points and beyond chance: larger batches, or none."""
    stage = evidence.subject
    if (
        stage is None
        or stage.diagnosis is None
        or not _normalizes_with_batches(evidence.schedule[stage.name])
    ):
        return None
    seen = stage.diagnosis
    low, high = wilson_of(seen.inference_accuracy, seen.images)
    apart = abs(seen.batch_accuracy - seen.inference_accuracy) > MODES_APART
    if not apart or low <= seen.batch_accuracy <= high:
        return None
    return (
        f"Normalizing with batches as in training, the network of {stage.name} is right on "
        f"{_percent(seen.batch_accuracy)} of the validation images, as it is used on "
        f"{_percent(seen.inference_accuracy)}: take larger batches (data.batch_size={2 * evidence.batch_size}), "
        f"or train on statistics that stay ({FROZEN.format(stage=stage.name)})"
    )


def _rate_too_high(evidence: Evidence) -> str | None:
    """A stage with fitting statistics leaves a validation loss 5 % above the one before it: a lower rate."""
    for stage in evidence.trained:
        if stage.diagnosis is not None and _gap(max(stage.diagnosis.layers, key=_gap)) > STATISTICS_OFF:
            continue  # a loss under wrong statistics says nothing of the rate
        change = _change_of_loss(evidence, stage)
        if change is not None and change > LOSS_ROSE:
            rate = evidence.schedule[stage.name].learning_rate
            return (
                f"{stage.name} made the validation loss {100 * change:.0f} % larger than it was before: a lower "
                f"learning rate, schedule.{stage.name}.learning_rate={rate / 3:.1g}"
            )
    return None


def _rate_too_low(evidence: Evidence) -> str | None:
    """The last stage moved neither validation loss (1 %) nor a training accuracy below 99 %: a higher rate."""
    stage = evidence.trained[-1] if evidence.trained else None
    change = None if stage is None else _change_of_loss(evidence, stage)
    if stage is None or change is None or abs(change) > LOSS_STAYED or _kept(stage).accuracy >= EASY:
        return None
    rate = evidence.schedule[stage.name].learning_rate
    return (
        f"{stage.name} hardly moved the validation loss: a higher learning rate, "
        f"schedule.{stage.name}.learning_rate={3 * rate:.1g}"
    )


def _more_epochs(evidence: Evidence) -> str | None:
    """The validation loss of the last stage still fell by 2 % in its last epoch: more epochs."""
    stage = evidence.trained[-1] if evidence.trained else None
    if stage is None:
        return None
    start = evidence.before(stage)
    losses = [*([start.loss] if start else []), *(epoch.val_loss for epoch in stage.history)]
    if len(losses) < 2 or not losses[-1] < (1 - STILL_FALLING) * min(losses[:-1]):
        return None
    looks = stage.history[-1].number
    steps = evidence.schedule[stage.name].steps
    setting = f"epochs={2 * looks}" if steps is None else f"steps={2 * steps}"
    return (
        f"The validation loss of {stage.name} was still falling in its last epoch ({losses[-2]:.3g} to "
        f"{losses[-1]:.3g}): train longer, schedule.{stage.name}.{setting}"
    )


def _control_as_good(evidence: Evidence) -> str | None:
    """The control is right on as many validation images as the kept stage: other places for batch normalization."""
    control, kept = evidence.validation(CONTROL), evidence.validation(evidence.best)
    if control is None or kept is None or control.accuracy < kept.accuracy:
        return None
    if evidence.placement == "none":
        remedy = "put some in: placement=before_activation"
    else:
        other = "before" if evidence.placement.startswith("after") else "after"
        remedy = f"put it elsewhere (placement={other}_activation) or take other stages (schedule=...)"
    return (
        f"More training without batch normalization does as well or better on the validation images "
        f"({_percent(control.accuracy)} against {_percent(kept.accuracy)} of {evidence.best}): {remedy}"
    )


def _too_little_trains(evidence: Evidence) -> str | None:
    """No stage trains everything, and training accuracy is below 95 % and not above validation's: train more."""
    stage = evidence.subject
    if stage is None or stage.validation is None:
        return None
    if any(EVERYTHING in evidence.schedule[each.name].train for each in evidence.trained):
        return None
    accuracy = _kept(stage).accuracy
    if accuracy >= FITS_POORLY or accuracy > stage.validation.accuracy:
        return None
    return (
        f"With {', '.join(evidence.schedule[stage.name].train)} training, only {_percent(accuracy)} of the training "
        "images are right: let more weights train, schedule=bn_then_all or schedule=gradual"
    )


def _learned_by_heart(evidence: Evidence) -> str | None:
    """Training accuracy is 5 points above validation's and beyond its interval: fewer weights or more labels."""
    stage = evidence.subject
    if stage is None or stage.validation is None:
        return None
    training, validation = _kept(stage).accuracy, stage.validation.accuracy
    if training - validation <= LEARNED_BY_HEART or training <= wilson(stage.validation)[1]:
        return None
    fewer = f"fewer weights that train (schedule.{stage.name}.train=[batch_norm]) or "
    return (
        f"{stage.name} is right on {_percent(training)} of the training images and {_percent(validation)} of the "
        "validation images, so it learns by heart: "
        f"{'' if list(evidence.schedule[stage.name].train) == ONLY_BATCH_NORM else fewer}more labelled images"
    )


def _few_labels(evidence: Evidence) -> str | None:
    """Fewer than 50 training images per class, and validation accuracy below 99 %: more labels."""
    kept = evidence.validation(evidence.best)
    each = evidence.training_images / evidence.classes
    if kept is None or kept.accuracy >= EASY or each >= FEW_LABELS:
        return None
    return f"There are {each:.0f} labelled training images for each class: more labels help most where there are few"


def _stages_too_close(evidence: Evidence) -> str | None:
    """Validation knows an accuracy to 2 points at best, and McNemar's test cannot tell stages apart: more images."""
    kept = evidence.validation(evidence.best)
    if kept is None:
        return None
    low, high = wilson(kept)
    others = [
        result.name
        for result in evidence.chain
        if result.name not in (evidence.best, INSERT)  # insertion leaves what it finds
        and result.validation is not None
        and _alike(kept, result.validation)
    ]
    if not others or (high - low) / 2 <= UNSURE:
        return None
    return (
        f"{len(kept.correct):,} validation images cannot tell {evidence.best} from {' and '.join(others)} (McNemar's "
        f"p above {1 - CONFIDENCE:.2g}): hold out more of them, data.validation_fraction"
    )


RULES: tuple[tuple[str, Callable[[Evidence], str | None]], ...] = (
    ("insertion not calibrated", _not_calibrated),
    ("statistics do not fit", _statistics_do_not_fit),
    ("batch and moving statistics disagree", _modes_disagree),
    ("learning rate too high", _rate_too_high),
    ("learning rate too low", _rate_too_low),
    ("more epochs", _more_epochs),
    ("control as good", _control_as_good),
    ("too little trains", _too_little_trains),
    ("learned by heart", _learned_by_heart),
    ("few labels", _few_labels),
    ("stages too close", _stages_too_close),
)


def _alike(first: Scores, second: Scores) -> bool:
    """Whether the images, on which both were scored, cannot tell the two apart."""
    gained = int((first.correct & ~second.correct).sum())
    lost = int((second.correct & ~first.correct).sum())
    return mcnemar(gained, lost) >= 1 - CONFIDENCE


def _gap(layer: LayerGap) -> float:
    return max(layer.mean, layer.deviation)


def _normalizes_with_batches(how: StageSettings) -> bool:
    return how.normalize == "batch"


def _kept(stage: StageResult) -> Epoch:
    return next((epoch for epoch in stage.history if epoch.number == stage.kept_epoch), stage.history[-1])


def _change_of_loss(evidence: Evidence, stage: StageResult) -> float | None:
    """Of the validation loss that a stage left, in parts of the loss that it started from."""
    start = evidence.before(stage)
    if start is None or stage.validation is None or start.loss <= 0:
        return None
    return stage.validation.loss / start.loss - 1


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
