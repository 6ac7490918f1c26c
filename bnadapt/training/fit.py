"""The one function that fits: every stage of a pipeline and of every arm goes through it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from bnadapt.array_file import UnusableFileError
from bnadapt.config import STATISTICS, StageSettings, takes_steps
from bnadapt.data.splits import Splits
from bnadapt.evaluation.results import Epoch
from bnadapt.normalization.drawn import assert_only_drawn_moved, fingerprint_outside
from bnadapt.normalization.policy import drawn_entries, train_only
from bnadapt.normalization.proof import assert_only_declared_moved, declared_to_move, fingerprint
from bnadapt.normalization.statistics import reestimate
from bnadapt.normalization.switches import switch_batch_norm
from bnadapt.normalization.table import describe_policy, policy_table
from bnadapt.training.checkpoint import Checkpoint, State, build_optimizer, identity_of, restore, values_of
from bnadapt.training.class_weights import weights_of_classes
from bnadapt.training.loop import Clock, Loop
from bnadapt.training.optimizer import Rate, compile_for, leave_stock_optimizer
from bnadapt.training.pace import batches, pace_of
from bnadapt.training.progress import Display
from bnadapt.training.randomness import seed_generators
from bnadapt.training.rate import STEPS, RateTest, find_rate
from bnadapt.training.trained import Trained

__all__ = ["Trained", "momentum_for", "set_policy", "train_stage", "trainable_parameters"]


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
    checkpoint: Path | None = None,
    every_steps: int | None = None,
    class_weights: str | Mapping[int, float] = "none",
    rate_key: str = "learning_rate",
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
        on_epoch: Called after every look at the validation images; not again for looks that ``checkpoint`` holds.
        on_policy: Called before the first step with a table of every layer: what trains, what moves. Again where an
            interrupted fit is gone on with.
        on_rate: Called with the range test where ``find_rate`` asks for one; it is not repeated.
        checkpoint: A file of this fit's own, for its state at the start, after every look and at the end. Where it is
            there the fit goes on from it, and on a CPU ends with the same bits as without an interruption; of a fit
            that has ended it gives network and result back. The network must have the weights that it had at the
            start. A file that is damaged or of another fit: a warning, and the fit begins anew.
        every_steps: Keep the state also after so many optimizer steps.
        class_weights: What the training loss of an image is multiplied by: ``none``, ``balanced``, or a weight by
            class (see ``weights_of_classes``, and ``batches`` on what the sum is divided by). The validation loss
            and all accuracies count every image once.
        rate_key: The setting that holds the learning rate, for messages.

    Raises:
        SurgeryError: ``how.train`` matches nothing.
        DivergedError: the loss of a step, every validation loss, or a weight that would be kept is no number. It says
            where that began; the network has the best weights so far again.
        StorageError: the state cannot be written; the file that was there is whole.
        FrozenWeightMovedError: a variable changed that the stage had not declared, or an entry not drawn.
    """
    if how.train != [STATISTICS] and not takes_steps(how):
        return Trained(0, (), 0, 0, ())
    clock = Clock()
    before = fingerprint(network)
    identity = identity_of(
        network,
        splits,
        how,
        before,
        batch_size=batch_size,
        evaluation_batch_size=evaluation_batch_size,
        samples=samples,
        from_logits=from_logits,
        seed=seed,
        class_weights=class_weights if isinstance(class_weights, str) else sorted(class_weights.items()),
    )
    kept = Checkpoint(checkpoint, identity)
    saved = kept.read()

    def images() -> Any:
        return splits.unlabelled.mixed(evaluation_batch_size, seed=seed)

    if how.train == [STATISTICS]:
        saved = _resumed(network, saved, kept)
        if saved is not None and saved.trained is not None:
            return replace(saved.trained, seconds_before=saved.seconds)
        trained = _take_statistics(network, images(), samples=samples, prior=how.prior)
        kept.write(State(0, values_of(network.variables), seconds=clock.seconds, trained=trained))
        return trained
    set_policy(network, how)
    drawn = drawn_entries(network, how.train, seed=seed)
    outside = fingerprint_outside(network, drawn)
    declared = declared_to_move(network)
    trainable = trainable_parameters(network, drawn)
    pace = pace_of(how, splits.train.steps(batch_size))
    weights = weights_of_classes(splits.train.labels(), len(splits.classes), class_weights)

    def data(first: int, steps: int) -> Any:
        return batches(splits.train, batch_size, seed=seed, first=first, steps=steps, class_weights=weights)

    def compiled(rate: float) -> StageSettings:
        at = replace(how, learning_rate=rate)
        keras.utils.set_random_seed(seed)
        compile_for(network, at, _rate(at, pace.steps), from_logits=from_logits, drawn=drawn)
        return at

    if saved is not None:
        at = compiled(saved.learning_rate or how.learning_rate)
        if saved.trained is not None:
            leave_stock_optimizer(network, at, from_logits=from_logits)
        saved = _resumed(network, saved, kept)
    if saved is not None and saved.trained is not None:
        return replace(saved.trained, seconds_before=saved.seconds)
    on_policy(policy_table(describe_policy(network, drawn)))
    if saved is None:
        rate = how.learning_rate
        seed_generators(network, seed)
        if how.find_rate:
            keras.utils.set_random_seed(seed)
            test = find_rate(network, data(0, STEPS), how, from_logits=from_logits, drawn=drawn)
            on_rate(test)
            rate = test.suggestion
        at = compiled(rate)
        saved = State(
            step=0,
            network=values_of(network.variables),
            optimizer=values_of(build_optimizer(network)),
            best=values_of(network.weights),
            learning_rate=rate,
            seconds=clock.seconds,
        )
        kept.write(saved)
    else:
        clock = replace(clock, before=saved.seconds)
    loop = Loop(
        network=network,
        name=name,
        how=at,
        pace=pace,
        data=data,
        validation=splits.validation.batches(evaluation_batch_size),
        display=display,
        on_epoch=on_epoch,
        checkpoint=kept,
        every_steps=every_steps,
        clock=clock,
        rate_key=rate_key,
    )
    try:
        history, kept_epoch = loop.run(saved)
    finally:
        leave_stock_optimizer(network, at, from_logits=from_logits)
    normalized = _layers_whose_statistics_move(declared)
    if normalized and how.reestimate:
        reestimate(network, images(), layers=normalized, samples=samples)
    moved = assert_only_declared_moved(before, fingerprint(network), declared)
    assert_only_drawn_moved(outside, fingerprint_outside(network, drawn))
    looks = pace.looks[: len(history)]
    trained = Trained(
        trainable=trainable,
        history=history,
        steps=looks[-1],
        kept_epoch=kept_epoch,
        moved=tuple(moved),
        looks=looks,
        learning_rate=at.learning_rate,
        seconds_before=clock.before,
    )
    kept.write(
        State(
            step=trained.steps,
            network=values_of(network.variables),
            optimizer=values_of(build_optimizer(network)),
            history=history,
            learning_rate=at.learning_rate,
            seconds=clock.seconds,
            trained=trained,
        )
    )
    return trained


def _resumed(network: keras.Model, saved: State | None, kept: Checkpoint) -> State | None:
    """Put the network into a state; None where there is none, or where it does not fit, with a warning."""
    if saved is not None:
        try:
            restore(network, saved)
        except UnusableFileError as error:
            kept.warn(error)
            return None
    return saved


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
