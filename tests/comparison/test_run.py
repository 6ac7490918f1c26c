"""Comparisons through the real command on the embedded digits: one baseline, one budget, one look at test images."""

import csv
import json
import re
from pathlib import Path

import keras
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.command import Finished
from tests.comparison.killing import kill_once
from tests.warm import bnadapt

TRANSFER = ["data@baseline_data=digits", "baseline_data.split_seed=1", "baseline_data.train_limit=400"]
SMALL = [
    "experiment=compare",
    *TRANSFER,
    "data.shift=contrast",
    "data.labels_per_class=5",
    "model.widths=[32,16]",
    "baseline.epochs=3",
    "comparison.steps=30",
    "comparison.looks=3",
    "comparison.learning_rates=[0.001,0.01]",
    "comparison.seeds=[0,1]",
    "comparison.bootstrap=1000",
]
FEW_ARMS = [*SMALL, "comparison.only=[bn_only,statistics]"]


def arms_of(finished: Finished) -> list[Run]:
    return [run for run in children_of(finished) if run.data.params["arm"] != "baseline"]


def children_of(finished: Finished) -> list[Run]:
    client: MlflowClient = finished.client
    return client.search_runs(
        ["1"],
        f"tags.`mlflow.parentRunId` = '{finished.run_id}'",
        order_by=["start_time ASC"],
        max_results=200,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A comparison that was killed in its middle and gone on with: what holds of any other holds of it."""
    directory = tmp_path_factory.mktemp("comparison")
    kill_once(FEW_ARMS, "statistics_s0_5", directory)
    result = bnadapt(*FEW_ARMS, "resume=true", cwd=directory)
    assert result.code == 0, result.output + result.errors
    assert result.output.count("(had ended)") >= 3
    return result


def test_the_console_names_the_arm_to_use_and_where_everything_lies(finished: Finished) -> None:
    assert re.search(r"^ +1/8  seed 0  untouched: validation \d+\.\d %", finished.output, re.MULTILINE)
    assert re.search(
        r"^ +8/8  seed 1  bn_only: validation \d+\.\d %  rate 0\.0\d+", finished.output, re.MULTILINE
    )
    assert re.search(r"Use (untouched|bn_only|statistics|further_training)", finished.output)
    assert "report: " in finished.output
    assert finished.errors == ""


def test_every_arm_with_every_seed_is_a_child_run(finished: Finished) -> None:
    children = arms_of(finished)
    assert [(run.data.params["arm"], run.data.params["seed"]) for run in children] == [
        (arm, seed)
        for seed in ("0", "1")
        for arm in ("untouched", "further_training", "statistics", "bn_only")
    ]
    assert {run.info.status for run in children} == {"FINISHED"}
    for run in children:
        assert 0 <= run.data.metrics["test_accuracy"] <= 1
        assert 0 <= run.data.metrics["val_accuracy"] <= 1


def test_every_baseline_is_a_run_with_its_curves_and_its_network(finished: Finished) -> None:
    baselines = [run for run in children_of(finished) if run.data.params["arm"] == "baseline"]
    assert [run.data.params["seed"] for run in baselines] == ["0", "1"]
    for run in baselines:
        seed = run.data.params["seed"]
        mine = {each.data.tags["baseline"] for each in arms_of(finished) if each.data.params["seed"] == seed}
        assert mine == {run.data.tags["baseline"]}
        assert len(finished.client.get_metric_history(run.info.run_id, "source_val_accuracy")) == 3
        assert run.outputs.model_outputs


def test_each_arm_says_what_it_is_where_it_put_batch_norm_and_what_it_trained_on(finished: Finished) -> None:
    runs = {run.data.params["arm"]: run for run in arms_of(finished) if run.data.params["seed"] == "0"}
    assert {arm: run.data.params["placement"] for arm, run in runs.items()} == {
        "untouched": "none",
        "further_training": "none",
        "statistics": "before_activation",
        "bn_only": "before_activation",
    }
    assert {run.data.tags["placement"] for run in runs.values()} == {"none", "before_activation"}
    assert runs["bn_only"].data.params["stages"] == "adapt 30 steps"
    assert runs["bn_only"].data.params["init"] == "calibrated"
    assert runs["untouched"].data.params["stages"] == "none"
    assert "schedule" not in runs["bn_only"].data.params | runs["bn_only"].data.tags
    inputs = {
        seed: {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
        for run in arms_of(finished)
        for seed in [run.data.params["seed"]]
    }
    train = next(name for name in inputs["0"] if name.endswith("train") and "contrast" in name)
    assert inputs["0"][train] != inputs["1"][train]  # other images have labels
    assert len(inputs["0"]) == len(inputs["1"]) == 4


def test_arms_share_one_baseline_and_take_the_same_steps(finished: Finished) -> None:
    children = arms_of(finished)
    for seed in ("0", "1"):
        assert len({run.data.tags["baseline"] for run in children if run.data.params["seed"] == seed}) == 1
    assert len({run.data.tags["baseline"] for run in children}) == 2
    steps = {(run.data.params["arm"], run.data.metrics["steps"]) for run in children}
    assert steps == {("untouched", 0), ("statistics", 0), ("further_training", 30), ("bn_only", 30)}


def test_curves_of_arms_lie_over_the_same_steps(finished: Finished) -> None:
    for run in arms_of(finished):
        history = finished.client.get_metric_history(run.info.run_id, "val_accuracy")
        taken = sorted({metric.step for metric in history})
        # The network that is left stands one step after the last look.
        assert taken == ([0, 1] if run.data.metrics["steps"] == 0 else [0, 10, 20, 30, 31])


def test_rates_are_chosen_with_the_first_seed_and_taken_over(finished: Finished) -> None:
    rates = {
        (run.data.params["arm"], run.data.params["seed"]): run.data.params["learning_rate"]
        for run in arms_of(finished)
    }
    for arm in ("further_training", "bn_only"):
        assert rates[arm, "0"] in ("0.001", "0.01")
        assert rates[arm, "1"] == rates[arm, "0"]
    assert rates["statistics", "0"] == "none"


def test_the_parent_has_the_means_the_choice_and_the_report(finished: Finished) -> None:
    parent, children = finished.parent, arms_of(finished)
    for arm in ("untouched", "bn_only"):
        scores = [run.data.metrics["test_accuracy"] for run in children if run.data.params["arm"] == arm]
        assert parent.data.metrics[f"test/{arm}"] == pytest.approx(sum(scores) / 2)
    assert parent.data.tags["recommended"] in ("untouched", "bn_only", "statistics", "further_training")
    assert parent.data.tags["verdict"] in ("helped", "hurt", "no difference")
    files = {file.path for file in finished.client.list_artifacts(finished.run_id)}
    assert {
        "report.html",
        "report.md",
        "arms.csv",
        "verdict.txt",
        "plan.txt",
        "config.yaml",
        "plots",
    } <= files


def test_the_recommended_network_is_kept_and_the_others_are_not(finished: Finished) -> None:
    (directory,) = {path.parent for path in finished.directory.rglob("best.keras")}
    network = keras.saving.load_model(directory / "best.keras")
    assert network.output_shape == (None, 10)
    assert not (directory / "models").exists()


def test_the_table_has_a_row_for_every_arm_and_seed(finished: Finished) -> None:
    path = finished.client.download_artifacts(finished.run_id, "arms.csv")
    rows = list(csv.DictReader(Path(path).read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 8
    assert {row["arm"] for row in rows} == {"untouched", "further_training", "statistics", "bn_only"}
    tried = json.loads(next(row for row in rows if row["arm"] == "bn_only" and row["seed"] == "0")["rates"])
    assert [each[0] for each in tried] == [0.001, 0.01]


@pytest.mark.slow
def test_the_same_command_finds_the_same(finished: Finished, tmp_path: Path) -> None:
    again = bnadapt(*FEW_ARMS, cwd=tmp_path)
    before, after = arms_of(finished), arms_of(again)
    for first, second in zip(before, after, strict=True):
        assert first.data.metrics["test_accuracy"] == second.data.metrics["test_accuracy"]
        assert first.data.params == second.data.params


@pytest.mark.slow
def test_all_arms_with_several_numbers_of_labels(tmp_path: Path) -> None:
    result = bnadapt(*SMALL, "comparison.labels_per_class=[2,null]", "comparison.seeds=[0]", cwd=tmp_path)
    assert result.code == 0, result.output + result.errors
    children = arms_of(result)
    assert len(children) == 26
    # The baseline never saw the target's labels, so that it is trained once for all numbers of them.
    assert len({run.data.tags["baseline"] for run in children}) == 1
    assert {run.data.params["labels_per_class"] for run in children} == {"2", "all"}


@pytest.mark.slow
def test_an_arm_that_always_runs_away_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "comparison"
    mine.mkdir(parents=True)
    (mine / "wild.yaml").write_text(
        "# Mine.\ndefaults: [arms]\narms:\n  wild:\n    schedule:\n      all: {train: [all], rate: 1.0e+38}\n"
    )
    rates = ["comparison.learning_rates=[0.01]", "comparison.optimizer=sgd", "comparison.only=[head,wild]"]
    small = [word for word in SMALL if "learning_rates" not in word and word != "experiment=compare"]
    result = bnadapt("--config-dir", "mine", "comparison=wild", *small, *rates, cwd=tmp_path)
    assert result.code == 0, result.output + result.errors
    assert "arm wild is left out, no learning rate kept its loss finite with seed 0" in result.output
    compared = {run.data.params["arm"] for run in arms_of(result) if "test_accuracy" in run.data.metrics}
    assert compared == {"untouched", "further_training", "head"}
    report = next(tmp_path.rglob("report.md")).read_text(encoding="utf-8")
    assert "arm wild is left out" in report


@pytest.mark.slow
def test_a_rate_that_runs_away_loses_against_the_others(tmp_path: Path) -> None:
    rates = ["comparison.learning_rates=[0.01,1e38]", "comparison.optimizer=sgd", "comparison.seeds=[0]"]
    result = bnadapt(*SMALL, *rates, "comparison.only=[head]", cwd=tmp_path)
    assert result.code == 0, result.output + result.errors
    assert "head at learning rate 1e+38: stage head: the loss is " in result.output
    assert {run.data.params["learning_rate"] for run in arms_of(result)} == {"none", "0.01"}
