"""The whole procedure through the real command, on the embedded digits: what a user gets, and what is recorded."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import keras
import mlflow
import numpy as np
import pytest
import yaml

from tests import warm
from tests.command import QUICK, Finished, bnadapt


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One whole run that the tests below look at."""
    return bnadapt(*QUICK, cwd=tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of the first two stages."""
    return warm.bnadapt(*QUICK, "stages=[baseline,insert]", cwd=tmp_path_factory.mktemp("stages"))


@pytest.fixture
def artifacts(finished: Finished, tmp_path: Path) -> Iterator[Path]:
    mlflow.set_tracking_uri(f"sqlite:///{finished.directory}/mlflow.db")
    yield Path(mlflow.artifacts.download_artifacts(run_id=finished.run_id, dst_path=str(tmp_path)))
    mlflow.set_tracking_uri(None)


def test_it_succeeds_and_says_nothing_on_the_error_stream(finished: Finished) -> None:
    assert finished.code == 0, finished.errors
    assert finished.errors == ""


def test_the_account_reads_in_order(finished: Finished) -> None:
    expected = [
        r"^digits$",
        r"1,167 train, 130 validation, 500 test images of 8x8x1, 10 classes",
        r"validation: 130 of the 1297 images of train",
        r"Batch normalization goes into 2 layers",
        r"^dense1 +Dense +32 +before the activation",
        r"^head +the head",
        r"^baseline +2 epochs +0.001 +all +2,7\d\d",
        r"^adapt +1 epoch +0.001 +batch_norm +96 +batch, then re-estimated",
        r"^control +2 epochs +- +all, no insertion",
        r"^baseline: epoch 2/2 .* val_accuracy",
        r"^insert: 2 batch normalization layers; largest change of any output on the 130 validation images",
        r"^adapt: epoch 1/1",
        r"^finetune: epoch 1/1",
        r"^control/finetune: epoch 1/1",
        r"^kept: \w+ in .*best.keras",
        r"^baseline .* 36 ",
        r"Best\s+stage\s+by\s+validation:\s",
        r"Against\s+the\s+baseline\s+trained\s+further\s+without\s+BN:\s+\S+\s+points\s+\(95 % interval\s",
        r"^report: .*/report.html$",
        r"^run: \w{32}$",
        r"^look at the runs: bnadapt ui$",
    ]
    position = 0
    for pattern in expected:
        found = re.compile(pattern, re.MULTILINE).search(finished.output, position)
        assert found, f"{pattern} is not after:\n{finished.output[:position]}"
        position = found.end()


def test_insertion_changes_no_output(finished: Finished) -> None:
    metrics = finished.children()["2_insert"].data.metrics
    assert metrics["largest_output_change"] < 1e-5
    assert metrics["largest_output_change_relative"] < 1e-5


def test_there_is_a_run_for_the_pipeline_and_one_for_each_stage(finished: Finished) -> None:
    assert finished.parent.info.status == "FINISHED"
    children = finished.children()
    assert list(children) == ["1_baseline", "2_insert", "3_adapt", "4_finetune", "5_control", "6_evaluate"]
    assert {run.info.status for run in children.values()} == {"FINISHED"}


def test_every_training_stage_logs_the_same_keys_at_every_epoch(finished: Finished) -> None:
    keys = {"accuracy", "loss", "val_accuracy", "val_loss", "learning_rate"}
    epochs = {"1_baseline": 2, "3_adapt": 1, "4_finetune": 1, "5_control": 2}
    for label, count in epochs.items():
        run = finished.children()[label]
        assert keys <= set(run.data.metrics), label
        steps = {each.step for each in finished.client.get_metric_history(run.info.run_id, "loss")}
        assert steps == set(range(1, count + 1)), label


def test_the_pipelines_run_holds_what_compares_it(finished: Finished) -> None:
    data = finished.parent.data
    stages = ["1_baseline", "2_insert", "3_adapt", "4_finetune", "5_control"]
    assert {f"{split}/{stage}" for split in ("val", "test") for stage in stages} <= set(data.metrics)
    assert {"test_accuracy", "test_loss", "test_macro_f1", "val_accuracy"} <= set(data.metrics)
    expected = {
        "data": "digits",
        "baseline_data": "digits",
        "model": "mlp 32-16",
        "placement": "before_activation",
    }
    assert expected.items() <= data.params.items()
    assert {
        "data": "digits",
        "schedule": "bn_then_all",
        "verdict": data.tags["verdict"],
    }.items() <= data.tags.items()
    assert data.tags["verdict"] in ("helped", "hurt", "no difference")
    assert data.params["baseline.epochs"] == "2"
    assert data.tags["best_stage"].partition("_")[2] in ("baseline", "insert", "adapt", "finetune")
    assert "bnadapt baseline.epochs=2" in data.tags["mlflow.note.content"]
    assert "Best stage by validation: " in data.tags["mlflow.note.content"]


def test_the_pipelines_files_are_complete(artifacts: Path) -> None:
    files = {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*") if path.is_file()}
    plots = {
        "validation_accuracy",
        "loss",
        "accuracy_by_stage",
        "recall_change",
        "confusion_matrix",
        "statistics_gap",
    }
    texts = {"config.yaml", "plan.txt", "stages.csv", "stages.md", "verdict.txt", "diagnosis.csv"}
    assert texts | {"report.html", "report.md"} | {f"plots/{name}.png" for name in plots} <= files
    settings = yaml.safe_load((artifacts / "config.yaml").read_text())
    assert settings["schedule"]["adapt"]["epochs"] == 1
    assert (artifacts / "stages.csv").read_text().count("\n") == 6


def test_the_report_lies_beside_the_best_network_and_in_mlflow(finished: Finished, artifacts: Path) -> None:
    (directory,) = finished.directory.glob("outputs/*/*")
    assert f"report: {directory / 'report.html'}" in finished.output
    for name in ("report.html", "report.md"):
        assert (directory / name).read_bytes() == (artifacts / name).read_bytes()
    text = (directory / "report.md").read_text(encoding="utf-8")
    verdict = (artifacts / "verdict.txt").read_text(encoding="utf-8").splitlines()
    for known in (verdict[0], "baseline.epochs=2", finished.run_id, "dense1_inserted_bn", "data.split_seed"):
        assert known in text, known
    linked = re.findall(r"\]\((\S+)\)", text)
    assert len(linked) >= 7
    assert all((directory / each).read_bytes().startswith(b"\x89PNG") for each in linked)
    assert (directory / "report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == len(
        linked
    )


def test_batch_normalization_is_diagnosed_where_there_is_any(finished: Finished, artifacts: Path) -> None:
    keys = {"statistics_gap", "gammas_near_zero", "inference_mode_accuracy", "batch_mode_accuracy"}
    for label, run in finished.children().items():
        has_batch_norm = label in ("2_insert", "3_adapt", "4_finetune")
        assert keys & set(run.data.metrics) == (keys if has_batch_norm else set()), label
    # Statistics were measured anew at the end of the stage, over the same images.
    assert finished.children()["3_adapt"].data.metrics["statistics_gap"] < 1e-3
    assert (artifacts / "diagnosis.csv").read_text().count("\n") == 1 + 3 * 2


def test_every_stages_network_loads_from_mlflow_and_predicts_as_scored(finished: Finished) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{finished.directory}/mlflow.db")
    try:
        for label, run in finished.children().items():
            if label == "6_evaluate":
                continue
            network = mlflow.keras.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
            has_batch_norm = any(isinstance(each, keras.layers.BatchNormalization) for each in network.layers)
            assert has_batch_norm == (label in ("2_insert", "3_adapt", "4_finetune")), label
            assert np.asarray(network(np.zeros((2, 8, 8, 1), "float32"))).shape == (2, 10)
    finally:
        mlflow.set_tracking_uri(None)


def test_the_kept_network_is_the_best_stages(finished: Finished) -> None:
    (directory,) = finished.directory.glob("outputs/*/*")
    best = finished.parent.data.tags["best_stage"]
    kept = keras.saving.load_model(directory / "best.keras")
    stage = keras.saving.load_model(directory / "models" / f"{best}.keras")
    for first, second in zip(kept.get_weights(), stage.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_adapted_network_differs_from_the_inserted_one_in_batch_normalization_alone(
    finished: Finished,
) -> None:
    (directory,) = finished.directory.glob("outputs/*/*")
    before = keras.saving.load_model(directory / "models" / "2_insert.keras")
    after = keras.saving.load_model(directory / "models" / "3_adapt.keras")
    for first, second in zip(before.layers, after.layers, strict=True):
        same = all(
            np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True)
        )
        assert same != isinstance(first, keras.layers.BatchNormalization), first.name


@pytest.mark.slow
def test_the_same_command_gives_the_same_weights(finished: Finished, tmp_path: Path) -> None:
    again = warm.bnadapt(*QUICK, "stages=[baseline,insert,adapt]", cwd=tmp_path)
    first, second = (
        keras.saving.load_model(next(each.directory.glob("outputs/*/*/models/3_adapt.keras")))
        for each in (finished, again)
    )
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_single_stages_say_how_to_go_on(unfinished: Finished) -> None:
    assert unfinished.code == 0
    assert list(unfinished.children()) == ["1_baseline", "2_insert"]
    (report,) = unfinished.directory.glob("outputs/*/*/report.md")
    assert "Not judged yet" in report.read_text(encoding="utf-8")
    (line,) = re.findall("^go on: (.*)$", unfinished.output, re.MULTILINE)
    expected = ["bnadapt", *QUICK, "stages=[adapt,finetune,evaluate]", f"from_run={unfinished.run_id}"]
    assert shlex.split(line) == expected


def test_stages_go_on_from_an_earlier_run_and_end_as_in_one(unfinished: Finished, finished: Finished) -> None:
    rest = warm.bnadapt(
        *QUICK, "stages=[adapt,finetune,evaluate]", f"from_run={unfinished.run_id}", cwd=unfinished.directory
    )
    assert rest.code == 0, rest.errors
    assert list(rest.children()) == ["3_adapt", "4_finetune", "5_control", "6_evaluate"]
    assert rest.parent.data.tags["from_run"] == unfinished.run_id
    key = "test/4_finetune"
    assert rest.parent.data.metrics[key] == finished.parent.data.metrics[key]
    assert rest.parent.data.metrics["test/5_control"] == finished.parent.data.metrics["test/5_control"]
    for stage in ("baseline", "insert", "adapt", "finetune", "control"):
        assert re.search(rf"^{stage} .* %", rest.output, re.MULTILINE), stage


@pytest.mark.parametrize(
    ("stages", "from_run", "message"),
    [
        ("[insert]", None, "stage insert needs stage baseline, and no earlier run is named (from_run=RUN_ID). "
         "This makes it: bnadapt baseline.epochs=2 "),
        ("[finetune]", "known", "stage finetune needs stage adapt, and run {id} has baseline, insert. This makes it: "
         "bnadapt baseline.epochs=2 "),
        pytest.param("[adapt]", "unknown", "from_run=unknown: no such run", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_what_a_stage_needs_and_does_not_have_is_named_with_the_command_that_makes_it(
    stages: str, from_run: str | None, message: str, unfinished: Finished
) -> None:
    known = unfinished.run_id
    arguments = [f"from_run={known if from_run == 'known' else from_run}"] if from_run else []
    result = warm.bnadapt(*QUICK, f"stages={stages}", *arguments, cwd=unfinished.directory)
    assert message.format(id=known) in result.errors
    assert result.code == 1
