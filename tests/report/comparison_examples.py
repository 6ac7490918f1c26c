"""Comparisons as they come out of real runs, made up: 13 arms from MNIST to USPS, and the edges."""

from collections.abc import Sequence

import numpy as np

from bnadapt.evaluation.arms import ArmResult, RateTried
from bnadapt.evaluation.compare import compare
from bnadapt.evaluation.results import Advice, Epoch, Scores
from bnadapt.report.comparison_material import ComparisonMaterial

IMAGES, STEPS, LOOKS = 2007, 300, 10
RATES = (1e-4, 1e-3, 1e-2)
# Name, description, test accuracy with ten labels, gain with every tenfold number of labels, trained parameters.
ARMS: tuple[tuple[str, str, float, float, int], ...] = (
    ("untouched", "the baseline as it is", 0.384, 0.0, 0),
    ("further_training", "everything trains, no BN", 0.842, 0.06, 52_138),
    ("finetune", "the head, then everything, no BN", 0.848, 0.06, 52_138),
    ("head", "the head alone, no BN", 0.731, 0.05, 650),
    ("biases", "the biases alone, no BN", 0.704, 0.06, 170),
    ("random_weights", "as many other weights as BN has, drawn at random", 0.722, 0.06, 320),
    ("input_statistics", "the input standardized to the target, no labels", 0.58, 0.0, 0),
    ("statistics", "BN statistics of the target, no labels", 0.531, 0.0, 0),
    (
        "statistics_then_affine",
        "the target's statistics, then gamma and beta on them frozen",
        0.79,
        0.05,
        320,
    ),
    ("bn_only", "gamma, beta and statistics, nothing else", 0.731, 0.07, 320),
    ("procedure", "BN alone, then everything", 0.857, 0.06, 52_458),
    ("procedure_other_placement", "the same, BN on the other side of the activations", 0.851, 0.06, 52_458),
    ("procedure_standard", "the same, BN inserted with Keras' defaults", 0.803, 0.07, 52_458),
)
LONG_ARMS = tuple(
    (f"{name}_with_a_rather_long_name_of_an_arm_{number}", f"{text}, told at some length, and more", *rest)
    for number, (name, text, *rest) in enumerate(ARMS)
)


def scores(accuracy: float, images: int, generator: np.random.Generator) -> Scores:
    correct = generator.permutation(images) < round(accuracy * images)
    accuracy = float(correct.mean())
    return Scores(
        accuracy=accuracy,
        loss=3.0 * (1 - accuracy) + 0.02,
        macro_f1=max(accuracy - 0.01, 0.0),
        calibration_error=0.4 * (1 - accuracy),
        recall=np.full(10, accuracy),
        correct=correct,
        predicted=np.zeros(images, np.int64),
    )


def result(
    arm: tuple[str, str, float, float, int], seed: int, labels: int | None, images: int, first: bool
) -> ArmResult:
    name, _, at_ten, gain, trainable = arm
    generator = np.random.default_rng([seed, labels or 0, sum(map(ord, name))])
    accuracy = at_ten + gain * np.log10((labels or 600) / 10) + generator.normal(0, 0.006)
    accuracy = at_ten if at_ten in (0.0, 1.0) else float(np.clip(accuracy, 0.05, 0.985))
    validation = scores(float(np.clip(accuracy + generator.normal(0.004, 0.006), 0, 1)), 300, generator)
    test = scores(accuracy, images, generator)
    start = min(0.1 if "standard" in name else 0.39, accuracy)
    looks = [round(STEPS * (number + 1) / LOOKS) for number in range(LOOKS)] if trainable else []
    history = []
    for number, step in enumerate(looks, 1):
        seen = start + (validation.accuracy - start) * (1 - np.exp(-step / 50))
        seen = float(np.clip(seen + generator.normal(0, 0.008), 0, 1))
        history.append(Epoch(number, seen, 1.1 - seen, seen, 1.1 - seen, 1e-3, 0.2))
    best = RATES[1 if trainable > 1000 else 2]
    tried = [
        RateTried(rate, max(validation.accuracy - 0.06 * abs(np.log10(rate / best)), 0.0), 1.0)
        for rate in (RATES if trainable and first else ())
    ]
    return ArmResult(
        arm=name,
        seed=seed,
        labels=labels,
        baseline=f"{seed:02x}" * 32,
        learning_rate=best if trainable else None,
        rates=tuple(tried),
        trainable=trainable,
        steps=STEPS if trainable else 0,
        seconds=2.5 + trainable / 4000,
        kept="all" if trainable else "baseline",
        history=tuple(history),
        looks=tuple(looks),
        validation=validation,
        test=test,
    )


def material(
    labels: Sequence[int | None] = (10,),
    seeds: Sequence[int] = (0, 1, 2),
    arms: Sequence[tuple[str, str, float, float, int]] = ARMS,
    images: int = IMAGES,
    reference: str | None = None,
) -> ComparisonMaterial:
    """A comparison of these arms; the second one is the reference, the first is untouched."""
    results = [
        result(arm, seed, level, images, first=seed == seeds[0])
        for level in labels
        for arm in arms
        for seed in seeds
    ]
    return ComparisonMaterial(
        title="mnist to usps",
        facts=("cnn 8-16", "BN before the activation in 3 layers", f"{STEPS} steps", f"seeds: {len(seeds)}"),
        comparisons=tuple(
            compare(
                [each for each in results if each.labels == level],
                reference=reference or arms[1][0],
                descriptions={name: text for name, text, *_ in arms},
                resamples=1000,
            )
            for level in labels
        ),
        results=tuple(results),
        descriptions={name: text for name, text, *_ in arms},
        data={"name": "usps", "images": "6,561 train, 730 validation, 2,007 test", "SHA-256": "c0ffee"},
        source_data={"name": "mnist", "images": "54,000 train", "SHA-256": "decade"},
        notes=("images of 16x16 are resized to 28x28",),
        advice=(Advice("more seeds", "Three seeds are few: comparison.seeds=[0,1,2,3,4] would narrow the intervals."),),
        look=None,
        diagnosis=None,
        shifts=(),
        command="bnadapt experiment=compare data@baseline_data=mnist data=usps data.labels_per_class=10",
        versions={"bnadapt": "0.1.0", "keras": "3.15.0"},
        seeds={"seed": "0", "comparison.seeds": ", ".join(map(str, seeds)), "data.split_seed": "0"},
        configuration="seed: 0\ncomparison:\n  steps: 300\n",
        run_id="f00dfeed",
        seconds=1234.0,
    )  # fmt: skip
