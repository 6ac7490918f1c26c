"""The one function that fits: every stage of a pipeline and of every arm goes through it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import keras
import numpy as np

from bnadapt.config import STATISTICS, StageSettings, takes_steps
from bnadapt.data.splits import Splits
from bnadapt.evaluation.results import Epoch
from bnadapt.normalization.drawn import assert_only_drawn_moved, fingerprint_outside
from bnadapt.normalization.policy import drawn_entries, train_only
from bnadapt.normalization.proof import assert_only_declared_moved, declared_to_move, fingerprint
from bnadapt.normalization.statistics import reestimate
from bnadapt.normalization.switches import switch_batch_norm
from bnadapt.normalization.table import describe_policy, policy_table
from bnadapt.training.callbacks import Best, Recorder
from bnadapt.training.optimizer import Rate, compile_for, leave_stock_optimizer
from bnadapt.training.pace import Pace, batches, pace_of
from bnadapt.training.progress import Display
from bnadapt.training.rate import STEPS, RateTest, find_rate


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
    """

    trainable: int
    history: tuple[Epoch, ...]
    steps: int
    kept_epoch: int
    moved: tuple[str, ...]
    looks: tuple[int, ...] = ()
    learning_rate: float | None = None

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
        )


def train_stage(
    network: keras.Model,
    splits: Splits,
    how: StageSettings,
    *,
    name: str,
    batch_size: int,
    evaluation_batch_size: int,
    samples: int | None,
    from_logits: bool,
    seed: int,
    display: Display,
    on_epoch: Callable[[Epoch], None],
    on_policy: Callable[[str], None] = lambda table: None,
    on_rate: Callable[[RateTest], None] = lambda test: None,
) -> Trained:
    """Train what a stage declares and nothing else; changes the network.

    The stage's switches are set on every layer, the network is compiled with a new optimizer, fitted on the
    training images and watched on the validation images. The weights of the kept look are restored, the moving
    statistics measured exactly where the stage trained on batch statistics, and every variable compared with
    its state before. A stage of ``train: [statistics]`` takes no steps: the training images, without their
    labels, give the moving statistics (AdaBN, Li et al., 2016; ``prior``: Schneider et al., 2020).

    With ``steps`` the stage takes exactly so many, through as many epochs of the data as they need, and looks at
    the validation images ``looks`` times. ``patience``, ``Epoch.number`` and ``kept_epoch`` count looks.

    Args:
        network: A classifier; its ``trainable`` flags, compiled state and declared variables change.
        splits: Only ``train``, ``unlabelled`` and ``validation`` are read.
        how: The stage; where it takes no steps (``takes_steps``) and no statistics, nothing happens at all.
        name: Of the stage, for messages.
        batch_size: Images per step.
        evaluation_batch_size: Images per forward pass where nothing trains.
        samples: Training images measured for statistics; None for all.
        from_logits: Whether the outputs are logits.
        seed: Of dropout, the order of images, and what is drawn per channel.
        display: Shows progress.
        on_epoch: Called after every look at the validation images.
        on_policy: Called before the first step with a table of every layer: what trains, what moves.
        on_rate: Called with the range test where ``find_rate`` asks for one.

    Raises:
        SurgeryError: ``how.train`` matches nothing.
        StageError: the loss is no longer a number.
        FrozenWeightMovedError: a variable changed that the stage had not declared, or an entry not drawn.
    """
    if how.train == [STATISTICS]:
        images = splits.unlabelled.mixed(evaluation_batch_size, seed=seed)
        return _take_statistics(network, images, samples=samples, prior=how.prior)
    if not takes_steps(how):
        return Trained(0, (), 0, 0, ())
    before = fingerprint(network)
    set_policy(network, how)
    drawn = drawn_entries(network, how.train, seed=seed)
    outside = fingerprint_outside(network, drawn)
    on_policy(policy_table(describe_policy(network, drawn)))
    declared = declared_to_move(network)
    trainable = trainable_parameters(network, drawn)
    pace = pace_of(how, splits.train.steps(batch_size))

    def data(first: int, steps: int) -> Any:
        return batches(splits.train, batch_size, seed=seed, first=first, steps=steps)

    if how.find_rate:
        keras.utils.set_random_seed(seed)
        test = find_rate(network, data(0, STEPS), how, from_logits=from_logits, drawn=drawn)
        on_rate(test)
        how = replace(how, learning_rate=test.suggestion)
    keras.utils.set_random_seed(seed)
    compile_for(network, how, _rate(how, pace.steps), from_logits=from_logits, drawn=drawn)
    best = Best(patience=how.patience or len(pace.looks) + 1, restore_best_weights=how.keep == "best")
    with display.stage(name, pace) as progress:
        recorder = Recorder(name, pace, progress, on_epoch)
        validation = splits.validation.batches(evaluation_batch_size)
        _fit(network, pace, data, validation, [recorder, best])
    best.restore()
    leave_stock_optimizer(network, how, from_logits=from_logits)
    normalized = _layers_whose_statistics_move(declared)
    if normalized and how.reestimate:
        images = splits.unlabelled.mixed(evaluation_batch_size, seed=seed)
        reestimate(network, images, layers=normalized, samples=samples)
    moved = assert_only_declared_moved(before, fingerprint(network), declared)
    assert_only_drawn_moved(outside, fingerprint_outside(network, drawn))
    looks = pace.looks[: len(recorder.history)]
    return Trained(
        trainable=trainable,
        history=tuple(recorder.history),
        steps=looks[-1],
        kept_epoch=best.best_epoch + 1 if how.keep == "best" else len(looks),
        moved=tuple(moved),
        looks=looks,
        learning_rate=how.learning_rate,
    )


def set_policy(network: keras.Model, how: StageSettings) -> None:
    """Set what a stage trains and the switches of batch normalization; changes the network's flags alone.

    Raises:
        SurgeryError: ``how.train`` or a pattern of ``how.batch_norm`` matches nothing.
    """
    # Their values have been checked with the settings.
    train_only(network, how.train, statistics=cast(Any, how.statistics), normalize=cast(Any, how.normalize))
    for pattern, switches in how.batch_norm.items():
        switch_batch_norm(
            network,
            pattern,
            affine=switches.affine,
            statistics=cast(Any, switches.statistics),
            normalize=cast(Any, switches.normalize),
        )


def _take_statistics(network: keras.Model, images: Any, *, samples: int | None, prior: float) -> Trained:
    before = fingerprint(network)
    layers = list(reestimate(network, images, samples=samples, prior=prior))
    declared = {f"{layer}/{name}" for layer in layers for name in ("moving_mean", "moving_variance")}
    moved = assert_only_declared_moved(before, fingerprint(network), declared, all_may_stay=True)
    return Trained(0, (), 0, 0, tuple(moved))


def momentum_for(steps_per_epoch: int) -> float:
    """Momentum of moving statistics that forget their start within about an epoch.

    ``1 - 10 / steps`` leaves e^-10 of the start after an epoch; never below 0.9, where the noise of single
    batches would show, nor above 0.99, Keras' default.
    """
    return min(max(1 - 10 / max(steps_per_epoch, 1), 0.9), 0.99)


def trainable_parameters(network: keras.Model, drawn: Mapping[str, np.ndarray] | None = None) -> int:
    """Number of parameters (scalars) that train under the network's present flags.

    Of the weights in ``drawn`` (as from ``drawn_entries``) only the drawn entries count.
    """
    return sum(layer.trainable for layer in describe_policy(network, drawn))


def _layers_whose_statistics_move(variables: set[str]) -> list[str]:
    return sorted(path.rpartition("/")[0] for path in variables if path.endswith("/moving_mean"))


def _rate(how: StageSettings, steps: int) -> Rate:
    if how.decay == "cosine":
        return keras.optimizers.schedules.CosineDecay(how.learning_rate, decay_steps=steps)
    return how.learning_rate


def _fit(
    network: keras.Model,
    pace: Pace,
    data: Callable[[int, int], Any],
    validation: Any,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Fit each part of the pace as if all were one; ``data`` gives the batches from a step on, so many."""
    for part in pace.parts():
        network.fit(
            data(part.done, part.looks * part.steps),
            steps_per_epoch=part.steps,
            initial_epoch=part.first,
            epochs=part.first + part.looks,
            validation_data=validation,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
        if network.stop_training:
            return
