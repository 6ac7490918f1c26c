"""What a comparison records, read back with MLflow's own client."""

import csv
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from bnadapt.evaluation.arms import ArmResult, ArmSummary, Comparison, RateTried
from bnadapt.evaluation.results import Epoch, Scores
from bnadapt.tracking.comparisons import arm_label, in_a_word
from bnadapt.tracking.store import Tracker


def scores(accuracy: float) -> Scores:
    nothing = np.zeros(0)
    return Scores(accuracy, 1 - accuracy, accuracy, accuracy / 4, nothing, nothing, nothing)


def result(arm: str, seed: int, rate: float | None = 1e-3) -> ArmResult:
    looks = (10, 20) if rate else ()
    history = tuple(
        Epoch(number, 0.5 + number / 10, 0.9, 0.4 + number / 10, 1.0, 1e-3, 0.5)
        for number in range(1, len(looks) + 1)
    )
    return ArmResult(
        arm=arm,
        seed=seed,
        labels=10,
        baseline="ab" * 32,
        learning_rate=rate,
        rates=(RateTried(1e-3, 0.6, 1.0), RateTried(1e-2, 0.5, 1.5)) if rate else (),
        trainable=12,
        steps=20 if rate else 0,
        seconds=3.5,
        kept="adapt",
        history=history,
        looks=looks,
        validation=scores(0.55),
    )


def summary(arm: str, validation: float, test: float) -> ArmSummary:
    return ArmSummary(arm, validation, test, 0.0, 1.0, 0.5, 0.1, 1.0, (1e-3,), 12, 3.5, None, None, None)


def comparison(labels: int | None, recommended: str = "bn_only") -> Comparison:
    more = 0.0 if labels is None else labels / 1000
    arms = (summary("bn_only", 0.75 + more, 0.5 + more), summary("untouched", 0.25, 0.125))
    return Comparison(labels, "untouched", recommended, "bn_only", 0.125, arms, "helped", ("It helped.",))


def test_arms_are_laid_over_each_other_without_any_setting(tracker: Tracker) -> None:
    with tracker.pipeline(
        "comparison", parameters={"data": "usps", "seed": "0, 1"}, tags={"model": "cnn"}
    ) as run:
        run.log_dataset("usps", "f00", "testing")
        runs = []
        for seed in (0, 1):
            for arm in ("bn_only", "further_training"):
                with run.arm(arm, {"seed": seed, "labels_per_class": 10}, {"family": arm[:2]}) as each:
                    each.log_start(scores(0.25))
                    each.log_result(result(arm, seed))
                runs.append(each)

    stored = [tracker.client.get_run(each.run_id) for each in runs]
    assert [each.info.run_name for each in stored] == [
        "bn_only s0 10/class",
        "further_training s0 10/class",
        "bn_only s1 10/class",
        "further_training s1 10/class",
    ]
    assert {each.info.status for each in stored} == {"FINISHED"}
    assert {each.data.tags["mlflow.parentRunId"] for each in stored} == {run.run_id}
    assert [each.data.tags["arm"] for each in stored[:2]] == ["bn_only", "further_training"]
    assert [each.data.tags["family"] for each in stored[:2]] == ["bn", "fu"]
    assert {each.data.tags["model"] for each in stored} == {"cnn"}
    assert {each.data.tags["baseline"] for each in stored} == {"ab" * 6}
    assert stored[2].data.params == {
        "data": "usps",
        "arm": "bn_only",
        "seed": "1",
        "labels_per_class": "10",
        "learning_rate": "0.001",
    }
    assert len({frozenset(each.data.metrics) for each in stored}) == 1, "other keys, other charts"
    assert next(iter(stored[0].data.metrics)) == "val_accuracy"  # what MLflow compares runs by at first
    for each in stored:
        history = tracker.client.get_metric_history(each.info.run_id, "val_accuracy")
        assert [
            (point.step, point.value) for point in sorted(history, key=lambda point: point.timestamp)
        ] == [
            (0, 0.25),
            (10, 0.5),
            (20, pytest.approx(0.6)),
            (21, 0.55),
        ]
        assert each.data.metrics["val_accuracy"] == 0.55
        assert each.data.metrics["arm_seconds"] == 3.5
        assert [entry.dataset.name for entry in each.inputs.dataset_inputs] == ["usps"]
    rows = Path(tracker.client.download_artifacts(runs[0].run_id, "rates.csv")).read_text().splitlines()
    assert list(csv.DictReader(rows)) == [
        {"learning_rate": "0.001", "accuracy": "0.6", "loss": "1.0"},
        {"learning_rate": "0.01", "accuracy": "0.5", "loss": "1.5"},
    ]


def test_looks_that_were_recorded_while_the_arm_trained_are_not_recorded_again(tracker: Tracker) -> None:
    with tracker.pipeline("live") as run, run.arm("bn_only", {"seed": 0}) as arm:
        arm.log_epoch(10, {"val_accuracy": 0.5})
        arm.log_result(result("bn_only", 0))
    history = tracker.client.get_metric_history(arm.run_id, "val_accuracy")
    assert sorted(point.step for point in history) == [10, 20, 21]


def test_an_arm_that_trains_nothing(tracker: Tracker) -> None:
    with tracker.pipeline("untouched") as run, run.arm("untouched", {"seed": 0, "learning_rate": ""}) as arm:
        arm.log_result(result("untouched", 0, rate=None))
    stored = tracker.client.get_run(arm.run_id)
    assert stored.data.params["learning_rate"] == ""
    assert stored.data.metrics["val_accuracy"] == 0.55
    assert tracker.client.list_artifacts(arm.run_id) == []


def test_network_and_test_scores_come_after_the_arm_has_ended(tracker: Tracker) -> None:
    with tracker.pipeline("late") as run:
        run.log_dataset("held out", "f01", "validation")
        run.log_dataset("usps", "f00", "testing")
        with run.arm("bn_only", {"seed": 0}) as arm:
            arm.log_result(result("bn_only", 0))
        uri = arm.log_model(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), np.zeros((1, 3)))
        arm.log_test(scores(0.5))
    stored = tracker.client.get_run(arm.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics["test_accuracy"] == 0.5
    model = tracker.client.get_logged_model(uri.removeprefix("models:/"))
    assert model.name == "bn_only s0 late"
    accuracies = {each.key: each for each in model.metrics if each.key.endswith("_accuracy")}
    assert {key: (each.value, each.dataset_name) for key, each in accuracies.items()} == {
        "val_accuracy": (0.55, "held out"),
        "test_accuracy": (0.5, "usps"),
    }


def test_the_test_scores_of_a_result_are_recorded_with_it(tracker: Tracker) -> None:
    with tracker.pipeline("tested") as run, run.arm("bn_only", {"seed": 0}) as arm:
        arm.log_result(replace(result("bn_only", 0), test=scores(0.5)))
    assert tracker.client.get_run(arm.run_id).data.metrics["test_macro_f1"] == 0.5


def test_a_failed_arm_is_marked_and_leaves_the_others(tracker: Tracker) -> None:
    def work() -> None:
        with tracker.pipeline("fails") as run:
            with run.arm("one") as arm:
                runs.append(arm)
            with run.arm("two") as arm:
                runs.append(arm)
                raise ValueError("no such layer")

    runs: list = []
    with pytest.raises(ValueError, match="no such layer"):
        work()
    states = [tracker.client.get_run(each.run_id) for each in runs]
    assert [each.info.status for each in states] == ["FINISHED", "FAILED"]
    assert states[1].data.tags["error"] == "ValueError: no such layer"


def test_a_comparison_with_one_number_of_labels_is_bars(tracker: Tracker) -> None:
    with tracker.pipeline("one") as run:
        with run.arm("bn_only") as arm:
            pass
        run.log_comparisons([comparison(10)])
    stored = tracker.client.get_run(run.run_id)
    assert stored.data.metrics == {
        "val_accuracy": 0.76,
        "test_accuracy": 0.51,
        "val/bn_only": 0.76,
        "val/untouched": 0.25,
        "test/bn_only": 0.51,
        "test/untouched": 0.125,
        "regret": 0.125,
    }
    assert [each.step for each in tracker.client.get_metric_history(run.run_id, "val/bn_only")] == [0]
    for each in (stored, tracker.client.get_run(arm.run_id)):
        assert (each.data.tags["recommended"], each.data.tags["verdict"]) == ("bn_only", "helped")


def test_several_numbers_of_labels_are_curves_and_all_images_come_last(tracker: Tracker) -> None:
    with tracker.pipeline("several") as run:
        run.log_comparisons([comparison(None, "untouched"), comparison(50), comparison(5)])
    history = tracker.client.get_metric_history(run.run_id, "val/bn_only")
    assert sorted((each.step, each.value) for each in history) == [
        (5, 0.755),
        (50, 0.8),
        (100, 0.75),
    ]
    stored = tracker.client.get_run(run.run_id).data
    assert stored.metrics["test_accuracy"] == 0.125  # of what is recommended with the most labels
    assert stored.tags["recommended"] == "all: untouched, 50: bn_only, 5: bn_only"
    assert stored.tags["verdict"] == "helped"


@pytest.mark.parametrize(
    ("parts", "label"),
    [
        (("bn_only", 1, 10), "bn_only s1 10/class"),
        (("bn_only", "0", "10"), "bn_only s0 10/class"),
        (("bn_only", 1, None), "bn_only s1"),
        (("bn_only", 1, "all"), "bn_only s1"),
        (("bn_only",), "bn_only"),
    ],
)
def test_an_arm_s_label(parts: tuple, label: str) -> None:
    assert arm_label(*parts) == label


def test_one_word_where_all_numbers_of_labels_agree() -> None:
    assert in_a_word([(5, "helped"), (None, "helped")]) == "helped"
    assert in_a_word([(5, "hurt"), (None, "helped")]) == "5: hurt, all: helped"
