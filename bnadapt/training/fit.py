"""The one function that compiles and fits."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import keras

from bnadapt.config import STATISTICS, StageSettings
from bnadapt.data.splits import Splits
from bnadapt.errors import StageError
from bnadapt.evaluation.results import Epoch
from bnadapt.normalization.policy import train_only, without_weight_decay
from bnadapt.normalization.proof import assert_only_declared_moved, declared_to_move, fingerprint
from bnadapt.normalization.statistics import reestimate
from bnadapt.normalization.switches import switch_batch_norm
from bnadapt.normalization.table import describe_policy, policy_table
from bnadapt.training.progress import Display, StageProgress

SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class Trained:
    """What training a stage did.

    Attributes:
        trainable: Number of parameters (scalars) that trained.
        history: Its epochs in order.
        steps: Optimizer steps taken.
        kept_epoch: Number of the epoch whose weights were kept; 0 where nothing trained.
        moved: Paths of the variables that changed, all of them declared.
    """

    trainable: int
    history: tuple[Epoch, ...]
    steps: int
    kept_epoch: int
    moved: tuple[str, ...]

    def then(self, further: "Trained") -> "Trained":
        """This training and a further one of the same network as one, the further one's epochs counted on."""
        done = len(self.history)
        return Trained(
            max(self.trainable, further.trainable),
            (*self.history, *(replace(epoch, number=epoch.number + done) for epoch in further.history)),
            self.steps + further.steps,
            further.kept_epoch + done if further.history else self.kept_epoch,
            tuple(sorted({*self.moved, *further.moved})),
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
) -> Trained:
    """Train what a stage declares and nothing else; changes the network.

    The stage's switches are set on every layer, the network is compiled with a new optimizer, fitted on the
    training images and watched on the validation images. The kept epoch's weights are restored, the moving
    statistics measured exactly where the stage trained on batch statistics, and every variable compared with
    its state before. A stage of ``train: [statistics]`` takes no steps: the training images, without their
    labels, give the moving statistics (AdaBN, Li et al., 2016; ``prior``: Schneider et al., 2020).

    Args:
        network: A classifier; its ``trainable`` flags, compiled state and declared variables change.
        splits: Only ``train``, ``unlabelled`` and ``validation`` are read.
        how: The stage; with zero epochs nothing happens at all.
        name: Of the stage, for messages.
        batch_size: Images per step.
        evaluation_batch_size: Images per forward pass where nothing trains.
        samples: Training images measured for statistics; None for all.
        from_logits: Whether the outputs are logits.
        seed: Of dropout and the order of images.
        display: Shows progress.
        on_epoch: Called after every epoch.
        on_policy: Called before the first step with a table of every layer: what trains, what moves.

    Raises:
        SurgeryError: ``how.train`` matches nothing.
        StageError: the loss is no longer a number.
        FrozenWeightMovedError: a variable changed that the stage had not declared.
    """
    if how.train == [STATISTICS]:
        images = splits.unlabelled.mixed(evaluation_batch_size, seed=seed)
        return _take_statistics(network, images, samples=samples, prior=how.prior)
    if how.epochs == 0:
        return Trained(0, (), 0, 0, ())
    before = fingerprint(network)
    set_policy(network, how)
    on_policy(policy_table(describe_policy(network)))
    declared = declared_to_move(network)
    trainable = trainable_parameters(network)
    keras.utils.set_random_seed(seed)
    steps_per_epoch = splits.train.steps(batch_size)
    _compile(network, how, steps=how.epochs * steps_per_epoch, from_logits=from_logits)
    best = keras.callbacks.EarlyStopping(
        monitor="val_loss",
        mode="min",
        patience=how.patience or how.epochs + 1,
        restore_best_weights=how.keep == "best",
    )
    with display.stage(name, how.epochs, steps_per_epoch) as progress:
        recorder = _Recorder(name, progress, on_epoch)
        network.fit(
            splits.train.shuffled(batch_size, seed=seed, epochs=how.epochs),
            steps_per_epoch=steps_per_epoch,
            epochs=how.epochs,
            validation_data=splits.validation.batches(evaluation_batch_size),
            callbacks=[recorder, best],
            shuffle=False,
            verbose=0,
        )
    normalized = _layers_whose_statistics_move(declared)
    if normalized and how.reestimate:
        images = splits.unlabelled.mixed(evaluation_batch_size, seed=seed)
        reestimate(network, images, layers=normalized, samples=samples)
    moved = assert_only_declared_moved(before, fingerprint(network), declared)
    kept = best.best_epoch + 1 if how.keep == "best" else len(recorder.history)
    steps = len(recorder.history) * steps_per_epoch
    return Trained(trainable, tuple(recorder.history), steps, kept, tuple(moved))


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


def trainable_parameters(network: keras.Model) -> int:
    """Number of parameters (scalars) that train under the network's present flags."""
    return sum(layer.trainable for layer in describe_policy(network))


def _layers_whose_statistics_move(variables: set[str]) -> list[str]:
    return sorted(path.rpartition("/")[0] for path in variables if path.endswith("/moving_mean"))


def _compile(network: keras.Model, how: StageSettings, *, steps: int, from_logits: bool) -> None:
    rate: float | keras.optimizers.schedules.LearningRateSchedule = how.learning_rate
    if how.decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(how.learning_rate, decay_steps=steps)
    match how.optimizer:
        case "adam":
            optimizer = keras.optimizers.Adam(rate)
        case "sgd":
            optimizer = keras.optimizers.SGD(rate, momentum=SGD_MOMENTUM)
        case _:
            optimizer = keras.optimizers.AdamW(rate, weight_decay=how.weight_decay)
            # Before the optimizer is built: afterwards Keras ignores it.
            optimizer.exclude_from_weight_decay(var_list=without_weight_decay(network))
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )


class _Recorder(keras.callbacks.Callback):
    """Turns Keras' logs into epochs, and stops with a message when the loss is no longer a number."""

    def __init__(self, stage: str, progress: StageProgress, on_epoch: Callable[[Epoch], None]) -> None:
        super().__init__()
        self.history: list[Epoch] = []
        self._stage = stage
        self._progress = progress
        self._on_epoch = on_epoch
        self._start = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._progress.step()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        record = Epoch(
            number=epoch + 1,
            accuracy=float(logs["accuracy"]),
            loss=float(logs["loss"]),
            val_accuracy=float(logs["val_accuracy"]),
            val_loss=float(logs["val_loss"]),
            learning_rate=float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)),
            seconds=time.monotonic() - self._start,
        )
        self.history.append(record)
        self._progress.epoch(record)
        self._on_epoch(record)
        if not math.isfinite(record.loss):
            raise StageError(
                f"stage {self._stage}: the loss is {record.loss} in epoch {record.number}; lower its "
                f"learning_rate (now {record.learning_rate:g}), or look for broken images"
            )
