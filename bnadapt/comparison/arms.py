"""What the arms of a comparison are as settings of the procedure, and which of them a network can take."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import keras

from bnadapt.config import (
    PER_CHANNEL,
    STATISTICS,
    UNTOUCHED,
    ArmSettings,
    ArmStageSettings,
    ComparisonSettings,
    PlacementSettings,
    Settings,
    StageSettings,
)
from bnadapt.errors import SurgeryError
from bnadapt.models.fit_to_data import fit_to_data
from bnadapt.rehearsal import find_chosen_sites, has_batch_norm
from bnadapt.start import Start
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.training.fit import set_policy

OTHER_POSITION = {"before_activation": "after_activation", "after_activation": "before_activation"}


@dataclass(frozen=True)
class Repetition:
    """One baseline and all arms that go on from it.

    Attributes:
        seed: Of this repetition.
        labels: Labelled images of each class; None for all.
        settings: Of the whole experiment, with this seed and so many labels.
    """

    seed: int
    labels: int | None
    settings: Settings


def repetitions(settings: Settings) -> Iterator[Repetition]:
    """Every number of labels with every seed; which images have labels depends on the seed as well."""
    for labels in settings.comparison.labels_per_class or [settings.data.labels_per_class]:
        for number in settings.comparison.seeds:
            seed = settings.seed + number
            data = replace(
                settings.data, labels_per_class=labels, labels_seed=settings.data.labels_seed + number
            )
            yield Repetition(seed, labels, replace(settings, seed=seed, data=data))


def chosen_arms(comparison: ComparisonSettings) -> dict[str, ArmSettings]:
    """The arms that are asked for and those that they are compared with, in the order of the configuration."""
    names = {*(comparison.only or comparison.arms), UNTOUCHED, comparison.reference}
    return {name: arm for name, arm in comparison.arms.items() if name in names}


def settings_of(settings: Settings, arm: ArmSettings, learning_rate: float | None) -> Settings:
    """The settings with which the procedure does what an arm says.

    Args:
        settings: Of the experiment.
        arm: The arm.
        learning_rate: The one to try; None for an arm that trains nothing by gradients.
    """
    chosen = settings.placement.position
    position = {"none": "none", "chosen": chosen, "other": OTHER_POSITION.get(chosen, chosen)}[arm.position]
    on_input = arm.on_input or (arm.position != "none" and settings.placement.on_input)
    return replace(
        settings,
        placement=replace(settings.placement, position=position, on_input=on_input),
        insertion=replace(
            settings.insertion,
            init=arm.init,
            gamma=settings.insertion.gamma if arm.init == "standard" else 1.0,  # calibration computes gamma
        ),
        schedule=dict(_schedule(settings.comparison, arm, learning_rate)),
    )


def trains(arm: ArmSettings) -> bool:
    """Whether anything in an arm trains by gradients, so that it needs labels, steps and a learning rate."""
    return any(_trains(stage) for stage in arm.schedule.values())


def runnable(settings: Settings, start: Start) -> tuple[dict[str, ArmSettings], list[str]]:
    """The chosen arms that make sense for this network and data, and a sentence on each of the others.

    Each arm is rehearsed on the untrained network, so that what cannot work is known before anything trains.
    Left out is what the network cannot take, what would change nothing, and what is the same as another arm
    here, as both placements are in a network that has batch normalization of its own.
    """
    network = fit_to_data(start.network, start.splits.image_shape, len(start.splits.classes)).network
    arms, notes = {}, []
    known: dict[object, str] = {}
    for name, arm in chosen_arms(settings.comparison).items():
        try:
            inserted = _rehearse(network, settings_of(settings, arm, 1.0))
        except SurgeryError as reason:
            notes.append(f"arm {name} is left out: {str(reason).splitlines()[0]}")
            continue
        meaning = (inserted, arm.init if inserted else "", repr(arm.schedule))
        if arm.schedule and not trains(arm) and not _statistics_can_change(settings, start, network):
            notes.append(
                f"arm {name} is left out: batch normalization is calibrated on the images that it would take its "
                "statistics from; data@baseline_data=NAME names what the network was trained on"
            )
        elif meaning in known:
            notes.append(f"arm {name} is left out: on this network it is the same as {known[meaning]}")
        else:
            arms[name], known[meaning] = arm, name
    if any(_draws(arm) for arm in arms.values()) and settings.placement != PlacementSettings(
        position=settings.placement.position
    ):
        notes.append(
            "random weights are drawn in every layer that could have batch normalization, also where the placement "
            "leaves some out or adds the input: compare the numbers of trained parameters"
        )
    return arms, notes


def _rehearse(network: keras.Model, settings: Settings) -> object:
    """Do an arm's surgery and set its stages' flags; returns what would be inserted, empty for nothing."""
    sites = find_chosen_sites(network, settings.placement)
    changed = insert_batch_norm(network, sites, epsilon=settings.insertion.epsilon)
    for stage in settings.schedule.values():
        if stage.train != [STATISTICS]:
            set_policy(changed, stage)
        elif not has_batch_norm(changed):
            raise SurgeryError("the network has no batch normalization")
    return tuple((site.layer, site.position) for site in sites)


def _statistics_can_change(settings: Settings, start: Start, network: keras.Model) -> bool:
    calibrated_elsewhere = start.transfers and settings.insertion.calibrate_on == "source"
    return calibrated_elsewhere or has_batch_norm(network)


def _schedule(
    comparison: ComparisonSettings, arm: ArmSettings, learning_rate: float | None
) -> Iterator[tuple[str, StageSettings]]:
    """The stages, whose steps are exactly the comparison's in all, also where shares do not divide them."""
    done = share = 0.0
    for name, stage in arm.schedule.items():
        if not _trains(stage):
            yield name, StageSettings(train=[STATISTICS])
            continue
        share += stage.share
        steps = round(comparison.steps * share) - done
        done += steps
        yield (
            name,
            StageSettings(
                train=list(stage.train),
                steps=int(steps),
                looks=max(round(comparison.looks * stage.share), 1),
                learning_rate=stage.rate * (learning_rate or 1.0),
                decay=stage.decay,
                optimizer=comparison.optimizer,
                statistics=stage.statistics,
                normalize=stage.normalize,
            ),
        )


def _draws(arm: ArmSettings) -> bool:
    return any(PER_CHANNEL.fullmatch(what) for stage in arm.schedule.values() for what in stage.train)


def _trains(stage: ArmStageSettings) -> bool:
    return stage.train != [STATISTICS]
