"""What arms left as values that JSON can hold, and back again to the last bit."""

from collections.abc import Mapping
from dataclasses import asdict, astuple
from typing import Any

import numpy as np

from bnadapt.evaluation.arms import ArmResult, RateTried
from bnadapt.evaluation.results import Scores
from bnadapt.training.trained import history_from

Plain = dict[str, Any]


def plain_scores(scores: Scores) -> Plain:
    """Scores; what there is of every image in one text each, because a journal has a line for each entry of a list."""
    return {
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "macro_f1": scores.macro_f1,
        "calibration_error": scores.calibration_error,
        "recall": scores.recall.tolist(),
        "correct": "".join(map(str, scores.correct.astype(int).tolist())),
        "predicted": " ".join(map(str, scores.predicted.tolist())),
    }


def scores_from(plain: Mapping[str, Any]) -> Scores:
    """The scores that :func:`plain_scores` made plain."""
    return Scores(
        **{
            **plain,
            "recall": np.array(plain["recall"], "float64"),
            "correct": np.array([each == "1" for each in plain["correct"]], bool),
            "predicted": np.array(plain["predicted"].split(), "int64"),
        }
    )


def plain_result(result: ArmResult) -> Plain:
    """What an arm left; without its name, seed and labels, which are those of whoever asks, and without the test."""
    return {
        "baseline": result.baseline,
        "learning_rate": result.learning_rate,
        "rates": [list(astuple(each)) for each in result.rates],
        "trainable": result.trainable,
        "steps": result.steps,
        "seconds": result.seconds,
        "kept": result.kept,
        "history": [asdict(epoch) for epoch in result.history],
        "looks": list(result.looks),
        "validation": plain_scores(result.validation),
    }


def result_from(plain: Mapping[str, Any], *, arm: str, seed: int, labels: int | None) -> ArmResult:
    """The result that :func:`plain_result` made plain."""
    return ArmResult(
        **{
            **plain,
            "arm": arm,
            "seed": seed,
            "labels": labels,
            "rates": tuple(RateTried(*each) for each in plain["rates"]),
            "history": history_from(plain["history"]),
            "looks": tuple(plain["looks"]),
            "validation": scores_from(plain["validation"]),
        }
    )
