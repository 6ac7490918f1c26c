"""Other placements, schedules and sweeps through the real command; what fails, and what is left of it."""

import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient
from PIL import Image

import bnadapt.start as bnadapt_start
from bnadapt.config import BaselineSettings, DataSettings, ModelSettings, Settings, StageSettings
from bnadapt.data.splits import ArraySplit, Splits
from bnadapt.pipeline import run_pipeline
from tests.command import QUICK
from tests.warm import bnadapt, start


def test_the_command_without_arguments_runs_the_whole_procedure(tmp_path: Path) -> None:
    result = bnadapt(cwd=tmp_path)
    assert result.code == 0, result.errors
    assert result.errors == ""
    assert list(result.children())[-1] == "6_evaluate"
    # The digits are easy: a procedure that breaks the network anywhere stays far below.
    assert result.parent.data.metrics["test_accuracy"] > 0.88


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_going_on_keeps_what_the_earlier_run_was_and_refuses_other_data_unasked(tmp_path: Path) -> None:
    cnn = ["model=cnn", "model.filters=[4]", "placement=after_activation", "baseline.epochs=1"]
    first = bnadapt(*cnn, "stages=[baseline,insert]", cwd=tmp_path)
    assert first.code == 0, first.errors
    later = bnadapt("stages=[adapt]", "schedule.adapt.epochs=1", f"from_run={first.run_id}", cwd=tmp_path)
    expected = {"model": "cnn 4-64", "placement": "after_activation", "schedule.adapt.epochs": "1"}
    assert expected.items() <= later.parent.data.params.items()
    assert later.parent.info.run_name == "digits cnn after s0"


@pytest.mark.slow
def test_going_on_with_other_data_is_refused_unless_they_are_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("L", (8, 8), number).save(tmp_path / "pictures" / name / f"{number}.png")
    own = ["data=folder", "data.path=pictures", "data.batch_size=4"]
    first = bnadapt(*own, *QUICK, "stages=[baseline,insert]", cwd=tmp_path)
    assert first.code == 0, first.errors
    other = bnadapt("data.batch_size=4", *QUICK, "stages=[adapt]", f"from_run={first.run_id}", cwd=tmp_path)
    assert other.code == 1
    assert "worked on pictures, this command on digits: repeat the settings of that run" in other.errors
    same = bnadapt(*own, *QUICK, "stages=[adapt]", f"from_run={first.run_id}", cwd=tmp_path)
    assert same.code == 0, same.errors


@pytest.mark.slow
def test_the_control_repeats_the_schedules_steps_and_rates(tmp_path: Path) -> None:
    patient = [
        "schedule.finetune.epochs=4",
        "schedule.finetune.patience=1",
        "schedule.finetune.learning_rate=0.3",
    ]
    result = bnadapt(*QUICK[:2], "model.widths=[16]", *patient, cwd=tmp_path)
    assert result.code == 0, result.errors
    steps = {label: run.data.metrics.get("steps") for label, run in result.children().items()}
    assert steps["5_control"] == steps["3_adapt"] + steps["4_finetune"]
    control = result.children()["5_control"]
    assert control.data.params["learning_rate"] == "0.001, 0.3"
    rates = result.client.get_metric_history(control.info.run_id, "learning_rate")
    assert [round(each.value, 6) for each in rates][:2] == [0.001, 0.3]


@pytest.mark.slow
def test_the_baselines_epochs_on_other_data_have_keys_of_their_own(tmp_path: Path) -> None:
    other = ["data@baseline_data=digits", "baseline_data.validation_fraction=0.3"]
    result = bnadapt(*other, *QUICK, "stages=[baseline]", cwd=tmp_path)
    metrics = result.children()["1_baseline"].data.metrics
    assert {"source_val_accuracy", "source_accuracy", "val_accuracy"} <= set(metrics)
    assert "accuracy" not in metrics
    assert "baseline on digits: epoch 2/2" in result.output


def test_no_stage_before_evaluate_decodes_a_test_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen: list[Splits] = []
    real = bnadapt_start.load

    def load(settings: DataSettings, shape: tuple[int, int, int]) -> Splits:
        seen.append(real(settings, shape))
        return seen[-1]

    monkeypatch.setattr(bnadapt_start, "load", load)
    settings = Settings(
        data=DataSettings(name="digits"),
        model=ModelSettings(widths=[8]),
        baseline=BaselineSettings(epochs=1),
        schedule={"adapt": StageSettings(train=["batch_norm"], epochs=1)},
        stages=["baseline", "insert", "adapt"],
        progress="none",
    )
    outcome = run_pipeline(settings, tmp_path / "out")
    (splits,) = seen
    assert isinstance(splits.test, ArraySplit)
    assert splits.train._decoded is not None
    assert splits.test._decoded is None
    settings.stages, settings.from_run = ["evaluate"], outcome.run_id
    run_pipeline(settings, tmp_path / "out2")
    assert seen[1].test._decoded is not None


@pytest.mark.slow
def test_an_interrupt_marks_the_runs_as_killed(tmp_path: Path) -> None:
    process = start("baseline.epochs=100000", cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("baseline: epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "bnadapt: interrupted\n  go on with it: bnadapt resume=" in errors
    assert "Traceback" not in errors
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert {run.info.status for run in runs} == {"KILLED"}
    assert len(runs) == 2


@pytest.mark.slow
def test_what_cannot_work_fails_before_anything_trains(tmp_path: Path) -> None:
    result = bnadapt(*QUICK, "schedule.adapt.train=['conv.*']", cwd=tmp_path)
    assert result.code == 1
    assert "'conv.*' selects no layer with weights; there are: dense1," in result.errors
    assert "epoch" not in result.output


@pytest.mark.slow
def test_from_scratch_the_control_is_the_same_network_without_batch_normalization(tmp_path: Path) -> None:
    result = bnadapt(
        "experiment=mlp_with_and_without_bn", "data=digits", "schedule.scratch.epochs=2", cwd=tmp_path
    )
    assert result.code == 0, result.errors
    children = result.children()
    assert list(children) == ["1_baseline", "2_insert", "3_scratch", "4_control", "5_evaluate"]
    assert children["1_baseline"].data.metrics["steps"] == 0
    assert children["3_scratch"].data.metrics["steps"] == children["4_control"].data.metrics["steps"] == 36


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["placement=none"],
        ["placement=after_activation", "schedule=gradual"],
        ["placement=input_only", "schedule=statistics"],
    ],
)
def test_other_placements_and_schedules_run(arguments: list[str], tmp_path: Path) -> None:
    short = {
        "placement=none": ["schedule.adapt.epochs=1", "schedule.finetune.epochs=1"],
        "placement=after_activation": [
            f"schedule.{stage}.epochs=1" for stage in ("adapt", "upper33", "upper66", "finetune")
        ],
        "placement=input_only": ["schedule.adapt.prior=16"],
    }[arguments[0]]
    result = bnadapt(*arguments, *short, "model=cnn", "model.filters=[4]", "baseline.epochs=1", cwd=tmp_path)
    assert result.code == 0, result.errors
    if arguments[0] == "placement=none":
        assert "adapt: nothing to do, the network has no batch normalization" in result.output
    if arguments[0] == "placement=input_only":
        assert result.children()["3_adapt"].data.metrics["steps"] == 0
        assert "5_control" not in result.children()  # nothing took a step


@pytest.mark.slow
def test_statistics_without_labels_and_then_gamma_and_beta_on_them(tmp_path: Path) -> None:
    short = ["schedule=statistics_then_affine", "schedule.adapt.epochs=2", "placement.on_input=true"]
    # Other images of the same set stand for other data.
    source = ["data@baseline_data=digits", "baseline_data.split_seed=1", "baseline_data.train_limit=300"]
    result = bnadapt(*QUICK[:1], *short, *source, "model.widths=[16]", cwd=tmp_path)
    assert result.code == 0, result.errors
    assert (
        "statistics: new moving statistics in 2 batch normalization layers, without labels" in result.output
    )
    assert "calibrated on the same images" not in result.output
    stages = result.children()

    def text(label: str, name: str) -> str:
        run_id = stages[label].info.run_id
        return Path(result.client.download_artifacts(run_id, name, str(tmp_path))).read_text()

    moved = {label: text(label, "moved.txt").split() for label in ("3_statistics", "4_adapt")}
    layers = ("images_inserted_bn", "dense1_inserted_bn")
    assert moved["3_statistics"] == [
        f"{layer}/{name}" for layer in layers for name in ("moving_mean", "moving_variance")
    ]
    assert moved["4_adapt"] == [f"{layer}/{name}" for layer in layers for name in ("gamma", "beta")]
    assert "the statistics of 0 of 2 batch normalization layers move" in text("4_adapt", "policy.txt")
    # What the statistics stage did is not undone by calibration on the images that it is to measure.
    assert stages["3_statistics"].data.metrics["val_loss"] != stages["2_insert"].data.metrics["val_loss"]


@pytest.mark.slow
def test_the_kept_network_can_be_a_patch_of_the_baselines(tmp_path: Path) -> None:
    # What is kept is decided by validation: a baseline of no epochs is worse than anything.
    short = ["baseline.epochs=0", "schedule=bn_only", "schedule.adapt.epochs=2", "model.widths=[32,16]"]
    first = bnadapt(*short, "evaluation.control=false", "hydra.run.dir=first", cwd=tmp_path)
    assert first.code == 0, first.errors
    assert "kept: adapt in" in first.output
    patch = tmp_path / "first" / "best.patch"
    assert patch.stat().st_size < 10_000
    assert f"and as a patch of {-(-patch.stat().st_size // 1024)} kB" in first.output
    artifacts = {file.path for file in first.client.list_artifacts(first.run_id)}
    assert "best.patch" in artifacts
    base = ["model=file", "model.path=first/models/1_baseline.keras"]
    again = bnadapt(*base, f"model.patch={patch}", "stages=[baseline]", cwd=tmp_path)
    assert again.code == 0, again.errors
    scores = again.children()["1_baseline"].data.metrics
    assert scores["val_loss"] == first.children()["3_adapt"].data.metrics["val_loss"]
    gone = bnadapt(*base, "model.patch=best.patch", cwd=tmp_path)
    assert (gone.code, "model.patch=best.patch: there is no such file" in gone.errors) == (1, True)


@pytest.mark.slow
def test_a_stage_of_statistics_that_can_change_nothing_is_announced(tmp_path: Path) -> None:
    result = bnadapt(
        *QUICK[:1], "schedule=statistics", "model.widths=[16]", "stages=[baseline,insert,adapt]", cwd=tmp_path
    )
    assert result.code == 0, result.errors
    assert "adapt: batch normalization is calibrated on the same images" in result.output


@pytest.mark.slow
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
