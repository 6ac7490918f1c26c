"""The surgery on the untrained network, so that what cannot work fails first, and the plan that comes of it."""

from typing import cast

import keras

from bnadapt.config import (
    BASELINE,
    CONTROL,
    EVALUATE,
    INSERT,
    STATISTICS,
    PlacementSettings,
    Settings,
    StageSettings,
    chosen_stages,
    inserts,
    length_of,
    takes_steps,
)
from bnadapt.errors import SurgeryError
from bnadapt.normalization.policy import ALL, BATCH_NORM, drawn_entries, train_only
from bnadapt.report.plan import PlanStage
from bnadapt.surgery.graph import layer_paths
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import Position, Sites, find_sites
from bnadapt.training.fit import set_policy, trainable_parameters


def rehearse(
    settings: Settings, stages: list[str], first: keras.Model, on_target: keras.Model, baseline: StageSettings
) -> tuple[Sites, tuple[PlanStage, ...]]:
    """Do the surgery on the untrained network, so that what cannot work fails before anything trains."""
    rows = [_plan_stage(BASELINE, first, baseline)] if BASELINE in stages else []
    sites, network = Sites(()), on_target
    if INSERT in stages:
        sites = find_chosen_sites(network, settings.placement)
        network = insert_batch_norm(network, sites, epsilon=settings.insertion.epsilon)
    rows += [_plan_stage(name, network, how) for name, how in settings.schedule.items() if name in stages]
    if EVALUATE in stages and settings.evaluation.control:
        rows.append(_plan_control(settings, on_target))
    return sites, tuple(rows)


def find_chosen_sites(network: keras.Model, placement: PlacementSettings) -> Sites:
    """The sites that the placement asks for; none where it asks for none.

    Raises:
        SurgeryError: no layer takes batch normalization and the network has none of its own, or a pattern
            matches nothing.
    """
    if not inserts(placement):
        return Sites(())
    sites = find_sites(
        network,
        None if placement.position == "none" else cast(Position, placement.position),
        include=placement.include,
        exclude=placement.exclude,
        shared=placement.shared,
        on_input=placement.on_input,
    )
    if not sites and not has_batch_norm(network):
        reasons = "".join(f"\n  {layer}: {reason}" for layer, reason in sites.passed_over.items())
        raise SurgeryError(
            f"no layer of {network.name!r} takes batch normalization; placement=none runs the procedure without."
            + (
                f" Passed over:{reasons}"
                if reasons
                else " It has no convolution or dense layer but the head."
            )
        )
    return sites


def has_batch_norm(network: keras.Model) -> bool:
    """Whether a network has batch normalization, inserted or its own."""
    return any(isinstance(layer, keras.layers.BatchNormalization) for layer in layer_paths(network).values())


def notes_on_statistics(settings: Settings, network: keras.Model, same_data: bool) -> list[str]:
    """Say it where a stage without labels has next to nothing to do."""
    stages = chosen_stages(settings)
    names = [name for name, how in settings.schedule.items() if how.train == [STATISTICS] and name in stages]
    calibrated_here = INSERT in stages and settings.insertion.init == "calibrated"
    on_target = same_data or settings.insertion.calibrate_on == "target"
    if not names or not calibrated_here or not on_target or has_batch_norm(network):
        return []
    return [
        f"{names[0]}: batch normalization is calibrated on the same images, so that their statistics change next "
        "to nothing; data@baseline_data=NAME names what the network was trained on"
    ]


def _plan_control(settings: Settings, network: keras.Model) -> PlanStage:
    train_only(network, ALL)
    return PlanStage(
        name=CONTROL,
        length=length_of(*settings.schedule.values()),
        learning_rate=None,
        trains="all, no insertion",
        trainable=trainable_parameters(network),
        statistics="",
    )


def _plan_stage(name: str, network: keras.Model, how: StageSettings) -> PlanStage:
    without_labels = how.train == [STATISTICS]
    idle = not takes_steps(how) or (how.train == [BATCH_NORM] and not has_batch_norm(network))
    if not idle:
        set_policy(network, how)
    return PlanStage(
        name=name,
        length=length_of(how),
        learning_rate=None if without_labels else how.learning_rate,
        trains="nothing" if without_labels else ", ".join(how.train),
        trainable=0 if idle else trainable_parameters(network, drawn_entries(network, how.train, seed=0)),
        statistics=_statistics_in_words(how)
        if has_batch_norm(network) and (without_labels or not idle)
        else "",
    )


def _statistics_in_words(how: StageSettings) -> str:
    if how.train == [STATISTICS]:
        blended = f", those before counting as {how.prior:g} images" if how.prior else ""
        return f"measured without labels{blended}"
    mode = {
        ("move", "batch"): "batch",
        ("stay", "batch"): "batch, moving ones stay",
        ("move", "moving"): "moving, following the batches",
        ("stay", "moving"): "moving, frozen",
    }[how.statistics, how.normalize]
    measured = ", then re-estimated" if how.reestimate and how.statistics == "move" else ""
    return mode + measured + (", others for some layers" if how.batch_norm else "")
