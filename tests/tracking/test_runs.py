"""What a pipeline records, read back with MLflow's own client."""

import hashlib
import html
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs

import keras
import mlflow
import numpy as np
import pytest
from markdown_it import MarkdownIt

from bnadapt.data.splits import ArraySplit, Splits
from bnadapt.errors import TrackingError
from bnadapt.evaluation.results import Scores, StageResult
from bnadapt.tracking.models import load_model
from bnadapt.tracking.nested import split_digest
from bnadapt.tracking.recording import Run
from bnadapt.tracking.store import Tracker
from bnadapt.tracking.ui import charts_page


def scores(accuracy: float) -> Scores:
    return Scores(
        accuracy=accuracy,
        loss=1 - accuracy,
        macro_f1=accuracy,
        calibration_error=accuracy / 4,
        recall=np.array([accuracy, accuracy]),
        correct=np.array([True, False]),
        predicted=np.array([0, 0]),
    )


def network() -> keras.Model:
    inputs = keras.Input((4, 4, 1))
    hidden = keras.layers.Flatten()(inputs)
    hidden = keras.layers.Dense(8)(hidden)
    hidden = keras.layers.BatchNormalization(name="dense_inserted_bn")(hidden)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.ReLU()(hidden)))


def test_a_pipeline_and_its_stages(tracker: Tracker) -> None:
    with tracker.pipeline(
        "digits mlp",
        parameters={"model.widths": [256, 128], "units[0]": 3},
        tags={"sweep": "none"},
        config_yaml="seed: 0\n",
        command="bnadapt data=digits",
    ) as run:
        run.log_dataset("digits", "a" * 64, "training", {"split": "train"})
        with run.stage("baseline", order=1, parameters={"epochs": 2}) as stage:
            stage.log_epoch(1, {"accuracy": 0.5, "val_accuracy": 0.4, "val_loss": math.inf})
            stage.log_epoch(2, {"accuracy": 0.6, "val_accuracy": 0.7, "val_loss": 0.9})
            result = StageResult(
                "baseline", trainable=210, steps=20, seconds=1.5, validation=scores(0.75), kept_epoch=2
            )
            stage.log_result(result)
        run.log_best(
            "1_baseline", StageResult("baseline", 210, 20, 1.5, validation=scores(0.75), test=scores(0.7))
        )

    parent = tracker.client.get_run(run.run_id)
    child = tracker.client.get_run(stage.run_id)
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert (parent.info.run_name, child.info.run_name) == ("digits mlp", "1_baseline")
    assert parent.data.tags["mlflow.note.content"].startswith("`bnadapt data=digits`\n")
    assert parent.data.tags["best_stage"] == "1_baseline"
    assert parent.data.tags["sweep"] == "none"
    assert "mlflow.parentRunId" not in parent.data.tags
    assert child.data.tags["mlflow.parentRunId"] == run.run_id
    assert child.data.tags["stage"] == "1_baseline"
    assert child.data.tags["sweep"] == "none"
    assert "mlflow.note.content" not in child.data.tags
    assert parent.data.params == {"model.widths": "[256, 128]", "units_0_": "3"}
    assert child.data.params == {**parent.data.params, "epochs": "2", "stage": "1_baseline"}
    assert parent.data.metrics["val/1_baseline"] == 0.75
    assert parent.data.metrics["val_accuracy"] == 0.75
    assert parent.data.metrics["test_accuracy"] == 0.7
    assert {key: child.data.metrics[key] for key in ("steps", "trainable_parameters", "kept_epoch")} == {
        "steps": 20,
        "trainable_parameters": 210,
        "kept_epoch": 2,
    }
    for each in (parent, child):
        dataset = each.inputs.dataset_inputs[0]
        assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "a" * 36)
        assert [(tag.key, tag.value) for tag in dataset.tags] == [("mlflow.data.context", "training")]
        files = [file.path for file in tracker.client.list_artifacts(each.info.run_id)]
        assert files == ["config.yaml"]


def splits(name: str, digest: str) -> Splits:
    train, validation, test = (
        ArraySplit(each, np.zeros((size, 4, 4, 1), np.uint8), np.zeros(size, np.int64))
        for each, size in (("train", 30), ("validation", 20), ("test", 10))
    )
    return Splits(name, ("a", "b"), (4, 4, 1), train, train, validation, test, digest, ())


def test_every_split_is_an_input_of_the_pipeline_and_of_its_stages(tracker: Tracker) -> None:
    with tracker.pipeline("splits") as run:
        run.log_splits(splits("usps", "a" * 64))
        run.log_splits(splits("mnist", "b" * 64), source=True)
        with run.stage("adapt", order=3) as stage:
            pass
    for each in (run, stage):
        inputs = tracker.client.get_run(each.run_id).inputs.dataset_inputs
        found = {entry.dataset.name: (entry.tags[0].value, entry.dataset) for entry in inputs}
        assert {name: context for name, (context, _) in found.items()} == {
            "usps train": "training",
            "usps validation": "validation",
            "usps test": "testing",
            "mnist train": "baseline training",
        }
        digests = {dataset.digest for _, dataset in found.values()}
        assert len(digests) == 4
        assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)
        assert json.loads(found["usps test"][1].source)["tags"] == {
            "split": "test",
            "images": "10",
            "classes": "2",
            "data set": "usps",
            "SHA-256": "a" * 64,
        }


def test_a_split_s_digest_depends_on_the_data_and_on_the_split() -> None:
    assert split_digest("a", "train") == hashlib.sha256(b"a train").hexdigest()[:12]
    assert len({split_digest(data, split) for data in "ab" for split in ("train", "test")}) == 4


def test_tags_say_what_the_data_are_and_a_verdict_is_found_on_stages_too(tracker: Tracker) -> None:
    parameters = {"data": "mnist", "model": "cnn 32-64", "placement": "before_activation, input"}
    tags = {"data": "tfds", "model": "cnn", "placement": "before_activation"}
    with tracker.pipeline("tags", parameters=parameters, tags=tags) as run:
        with run.stage("adapt", order=3):
            pass
        run.log_verdict("helped")
    condition = (
        f"tags.data = 'mnist' and tags.model = 'cnn' and tags.placement = '{parameters['placement']}' "
        "and tags.verdict = 'helped'"
    )
    found = tracker.client.search_runs([tracker.experiment_id], condition)
    assert {each.info.run_name for each in found} == {"tags", "3_adapt"}


def test_a_pipeline_s_accuracy_is_the_best_so_far_without_the_control(tracker: Tracker) -> None:
    accuracies = {"baseline": 0.75, "insert": 0.7, "adapt": 0.8, "control": 0.9}
    with tracker.pipeline("best so far") as run:
        for order, (name, accuracy) in enumerate(accuracies.items(), start=1):
            with run.stage(name, order=order) as stage:
                stage.log_result(StageResult(name, 1, 1, 1.0, validation=scores(accuracy)))
    stored = tracker.client.get_run(run.run_id).data.metrics
    assert stored["val_accuracy"] == 0.8
    assert stored["val/4_control"] == 0.9
    assert next(iter(stored)) == "val_accuracy"  # what MLflow compares runs by without being asked


def test_a_description_leads_to_the_curves_of_the_stages(tracker: Tracker) -> None:
    with tracker.pipeline("described", command="bnadapt data=digits") as run:
        with run.stage("adapt", order=3):
            pass
        run.describe("**It helped.**")
    shown = MarkdownIt().render(tracker.client.get_run(run.run_id).data.tags["mlflow.note.content"])
    assert shown.startswith("<p><strong>It helped.</strong></p>\n<p><a href=")
    link = html.unescape(shown.split('href="', 1)[1].partition('"')[0])
    assert link == charts_page(run.experiment_id, below=run.run_id)
    condition = parse_qs(link.partition("?")[2])["searchFilter"][0]
    found = tracker.client.search_runs([run.experiment_id], condition)
    assert [each.info.run_name for each in found] == ["3_adapt"]


def test_the_kept_network_is_an_output_of_the_pipeline(tracker: Tracker) -> None:
    with tracker.pipeline("kept") as run:
        with run.stage("adapt", order=3) as stage:
            uri = stage.log_model(network())
        with run.stage("finetune", order=4) as other:
            other.log_model(network())
        run.log_best("3_adapt", StageResult("adapt", 1, 1, 1.0, validation=scores(0.9)))
    outputs = tracker.client.get_run(run.run_id).outputs.model_outputs
    assert [f"models:/{each.model_id}" for each in outputs] == [uri]
    assert tracker.client.get_logged_model(stage.model_id).source_run_id == stage.run_id


def test_epochs_are_steps_and_the_result_is_the_newest_value(tracker: Tracker) -> None:
    with tracker.pipeline("steps") as run, run.stage("adapt", order=3) as stage:
        stage.log_epoch(0, {"val_accuracy": 0.1})
        stage.log_epoch(1, {"val_accuracy": 0.3, "val_loss": math.inf})
        stage.log_result(StageResult("adapt", trainable=1, steps=1, seconds=1, validation=scores(0.2)))
    history = tracker.client.get_metric_history(stage.run_id, "val_accuracy")
    assert [(each.step, each.value) for each in sorted(history, key=lambda each: each.timestamp)] == [
        (0, 0.1),
        (1, 0.3),
        (2, 0.2),
    ]
    assert tracker.client.get_run(stage.run_id).data.metrics["val_accuracy"] == 0.2
    recorded = tracker.client.get_metric_history(stage.run_id, "val_loss")
    assert math.isnan(min(recorded, key=lambda each: each.timestamp).value)


def test_the_newest_value_is_clear_even_within_one_tick_of_the_clock(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_800_000_000_000_000_000)
    with tracker.pipeline("fast") as run, run.stage("adapt", order=3) as stage:
        stage.log_epoch(1, {"val_accuracy": 0.9})
        stage.log_result(StageResult("adapt", trainable=1, steps=1, seconds=1, validation=scores(0.2)))
    assert tracker.client.get_run(stage.run_id).data.metrics["val_accuracy"] == 0.2
    history = tracker.client.get_metric_history(stage.run_id, "val_accuracy")
    assert len({each.timestamp for each in history}) == 2


def test_more_metrics_and_parameters_than_one_call_takes(tracker: Tracker) -> None:
    many = {f"recall/{number}": number / 2000 for number in range(1500)}
    with tracker.pipeline("many", parameters={f"p{number}": number for number in range(150)}) as run:
        run.log_metrics(many)
    stored = tracker.client.get_run(run.run_id).data
    assert stored.metrics == many
    assert len(stored.params) == 150


def test_a_failed_stage_keeps_what_came_before_and_says_why(tracker: Tracker) -> None:
    def work() -> None:
        with tracker.pipeline("fails") as run:
            runs.append(run)
            with run.stage("baseline", order=1) as stage:
                runs.append(stage)
                stage.log_epoch(1, {"accuracy": 0.5})
            with run.stage("insert", order=2) as stage:
                runs.append(stage)
                stage.log_epoch(0, {"val_accuracy": 0.25})
                raise ValueError("no such layer")

    runs: list[Run] = []
    with pytest.raises(ValueError, match="no such layer"):
        work()
    run, first, second = runs
    states = {each.run_id: tracker.client.get_run(each.run_id) for each in (run, first, second)}
    assert [states[each.run_id].info.status for each in (run, first, second)] == [
        "FAILED",
        "FINISHED",
        "FAILED",
    ]
    assert states[second.run_id].data.tags["error"] == "ValueError: no such layer"
    assert states[run.run_id].data.tags["error"] == "ValueError: no such layer"
    assert states[second.run_id].data.metrics["val_accuracy"] == 0.25
    text = Path(tracker.client.download_artifacts(second.run_id, "error.txt")).read_text()
    assert "Traceback" in text
    assert "no such layer" in text


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_stopped_pipeline_is_killed_not_failed(tracker: Tracker, stop: type[BaseException]) -> None:
    def work() -> None:
        with tracker.pipeline("stopped") as run, run.stage("baseline", order=1) as stage:
            runs.extend((run, stage))
            raise stop

    runs: list[Run] = []
    with pytest.raises(stop):
        work()
    assert [tracker.client.get_run(each.run_id).info.status for each in runs] == ["KILLED", "KILLED"]


def test_files(tracker: Tracker) -> None:
    with tracker.pipeline("files") as run:
        run.log_bytes("plots/curve.png", b"\x89PNG")
        run.log_text("summary.txt", "Größe 3\n")
        run.log_table(
            [{"stage": "a, b", "accuracy": 0.5}, {"stage": "ж", "accuracy": 1.0}], "tables/stages.csv"
        )

    def fetch(path: str) -> Path:
        return Path(tracker.client.download_artifacts(run.run_id, path))

    assert fetch("plots/curve.png").read_bytes() == b"\x89PNG"
    assert fetch("summary.txt").read_text(encoding="utf-8") == "Größe 3\n"
    assert fetch("tables/stages.csv").read_text(encoding="utf-8").splitlines() == [
        "stage,accuracy",
        '"a, b",0.5',
        "ж,1.0",
    ]


def test_a_network_is_loaded_again_with_its_scores_and_in_a_process_without_bnadapt(
    tracker: Tracker, tmp_path: Path
) -> None:
    model = network()
    images = np.random.default_rng(0).uniform(0, 255, (3, 4, 4, 1)).astype(np.float32)
    expected = model.predict(images, verbose=0)
    with tracker.pipeline("data/x: network", parameters={"seed": 0}) as run:
        run.log_dataset("source", "ba5", "training")
        run.log_dataset("held out", "f01", "validation")
        run.log_dataset("target", "f00", "testing")
        with run.stage("finetune", order=4) as stage:
            stage.log_epoch(3, {"val_accuracy": 0.7})
            stage.log_result(StageResult("finetune", 1, 1, 1.0, validation=scores(0.8)))
            uri = stage.log_model(model, images)
            stage.log_test(scores(0.9))

    np.testing.assert_array_equal(load_model(tracker.uri, uri).predict(images, verbose=0), expected)
    logged = tracker.client.get_logged_model(uri.removeprefix("models:/"))
    assert (logged.name, logged.source_run_id, logged.status) == (
        "4_finetune data_x_ network",
        stage.run_id,
        "READY",
    )
    assert logged.params == {"seed": "0", "stage": "4_finetune"}
    assert {(each.dataset_name, each.key, each.step): each.value for each in logged.metrics} == {
        ("target", "test_accuracy", 0): 0.9,
        ("target", "test_loss", 0): pytest.approx(0.1),
        ("target", "test_macro_f1", 0): 0.9,
        ("target", "test_calibration_error", 0): pytest.approx(0.225),
        ("held out", "val_accuracy", 4): 0.8,
        ("held out", "val_loss", 4): pytest.approx(0.2),
        ("held out", "val_macro_f1", 4): 0.8,
        ("held out", "val_calibration_error", 4): 0.2,
    }
    assert tracker.client.get_run(run.run_id).data.metrics["test/4_finetune"] == 0.9

    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "expected.npy", expected)
    program = f"""
import json, sys, mlflow, mlflow.keras, numpy as np
mlflow.set_tracking_uri({tracker.uri!r})
images, expected = np.load("images.npy"), np.load("expected.npy")
np.testing.assert_allclose(mlflow.keras.load_model({uri!r}).predict(images, verbose=0), expected, rtol=1e-6)
served = mlflow.pyfunc.load_model({uri!r})
np.testing.assert_allclose(served.predict(images), expected, rtol=1e-6)
description = mlflow.models.Model.load({uri!r})
for example in (description.load_input_example({uri!r}), description.load_input_example()):
    np.testing.assert_array_equal(example, images[:1])
    np.testing.assert_allclose(served.predict(example.astype(np.float32)), expected[:1], rtol=1e-5)
directory = mlflow.artifacts.download_artifacts({uri!r})
body = json.load(open(directory + "/serving_input_example.json"))
np.testing.assert_array_equal(np.asarray(body["inputs"], np.float32), images[:1])
expected_input = served.metadata.signature.inputs.inputs[0]
assert (str(expected_input.type), tuple(expected_input.shape)) == ("float32", (-1, 4, 4, 1))
assert "bnadapt" not in sys.modules
requirements = open(mlflow.pyfunc.get_model_dependencies({uri!r})).read()
assert "keras==" in requirements and "tensorflow==" in requirements
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_network_is_an_error_of_ours(tracker: Tracker) -> None:
    with pytest.raises(TrackingError, match="no network could be loaded from models:/m-nothing"):
        load_model(tracker.uri, "models:/m-nothing")


def test_nothing_is_left_in_mlflow_s_own_state(tracker: Tracker) -> None:
    with tracker.pipeline("quiet") as run, run.stage("baseline", order=1):
        assert mlflow.active_run() is None
