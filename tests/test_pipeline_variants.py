"""Other placements, schedules and sweeps through the real command; what fails, and what is left of it."""

import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.command import QUICK, bnadapt, start


def test_a_failed_stage_is_marked_and_what_was_before_it_stays(tmp_path: Path) -> None:
    result = bnadapt(*QUICK, "schedule.adapt.train=['conv.*']", "stages=[baseline,insert]", cwd=tmp_path)
    assert result.code == 0
    # The rate overflows only when the stage runs.
    result = bnadapt(
        *QUICK, "schedule.finetune.learning_rate=1e38", "schedule.finetune.optimizer=sgd", cwd=tmp_path
    )
    assert result.code == 1
    assert "stage finetune: the loss is " in result.errors
    assert "Traceback" not in result.errors
    parents = [
        run
        for run in result.client.search_runs(["1"])
        if run.info.status == "FAILED" and "stage" not in run.data.tags
    ]
    assert len(parents) == 1
    statuses = {label: run.info.status for label, run in result.children(parents[0].info.run_id).items()}
    assert statuses == {
        "1_baseline": "FINISHED",
        "2_insert": "FINISHED",
        "3_adapt": "FINISHED",
        "4_finetune": "FAILED",
    }


def test_stages_done_anew_leave_out_what_came_after_them_before(tmp_path: Path) -> None:
    whole = bnadapt(*QUICK, cwd=tmp_path)
    anew = bnadapt(*QUICK, "stages=[adapt,evaluate]", f"from_run={whole.run_id}", cwd=tmp_path)
    assert anew.code == 0, anew.errors
    tested = {key for key in anew.parent.data.metrics if key.startswith("test/")}
    assert tested == {"test/1_baseline", "test/2_insert", "test/3_adapt", "test/5_control"}
    assert anew.children()["5_control"].data.metrics["steps"] == 18
    again = bnadapt(*QUICK, "stages=[evaluate]", f"from_run={whole.run_id}", cwd=tmp_path)
    assert list(again.children()) == ["6_evaluate"]
    assert again.parent.data.metrics["test/5_control"] == whole.parent.data.metrics["test/5_control"]


def test_an_interrupt_marks_the_runs_as_killed(tmp_path: Path) -> None:
    process = start("baseline.epochs=100000", cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("baseline: epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "bnadapt: interrupted; the stages that had finished are in MLflow." in errors
    assert "Traceback" not in errors
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert {run.info.status for run in runs} == {"KILLED"}
    assert len(runs) == 2


def test_what_cannot_work_fails_before_anything_trains(tmp_path: Path) -> None:
    result = bnadapt(*QUICK, "schedule.adapt.train=['conv.*']", cwd=tmp_path)
    assert result.code == 1
    assert "'conv.*' selects no layer with weights; there are: dense1," in result.errors
    assert "epoch" not in result.output


def test_from_scratch_the_control_is_the_same_network_without_batch_normalization(tmp_path: Path) -> None:
    result = bnadapt(
        "experiment=mlp_with_and_without_bn", "data=digits", "schedule.scratch.epochs=2", cwd=tmp_path
    )
    assert result.code == 0, result.errors
    children = result.children()
    assert list(children) == ["1_baseline", "2_insert", "3_scratch", "4_control", "5_evaluate"]
    assert children["1_baseline"].data.metrics["steps"] == 0
    assert children["3_scratch"].data.metrics["steps"] == children["4_control"].data.metrics["steps"] == 36


@pytest.mark.parametrize(
    "arguments", [["placement=none"], ["placement=after_activation", "schedule=gradual"]]
)
def test_other_placements_and_schedules_run(arguments: list[str], tmp_path: Path) -> None:
    short = {
        "placement=none": ["schedule.adapt.epochs=1", "schedule.finetune.epochs=1"],
        "placement=after_activation": [
            f"schedule.{stage}.epochs=1" for stage in ("adapt", "upper_third", "upper_two_thirds", "finetune")
        ],
    }[arguments[0]]
    result = bnadapt(*arguments, *short, "model=cnn", "model.filters=[4]", "baseline.epochs=1", cwd=tmp_path)
    assert result.code == 0, result.errors
    if arguments[0] == "placement=none":
        assert "adapt: nothing to train, the network has no batch normalization" in result.output


def test_a_sweep_makes_a_run_for_every_job_under_one_experiment(tmp_path: Path) -> None:
    sweep = ["-m", "seed=0,1", "placement=before_activation,after_activation"]
    result = bnadapt(*sweep, *QUICK, "evaluation.control=false", cwd=tmp_path)
    assert result.code == 0, result.errors
    runs = [run for run in result.client.search_runs(["1"]) if "stage" not in run.data.tags]
    assert sorted((run.data.params["seed"], run.data.params["placement"]) for run in runs) == [
        ("0", "after_activation"),
        ("0", "before_activation"),
        ("1", "after_activation"),
        ("1", "before_activation"),
    ]
