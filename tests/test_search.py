"""A search goes on where it was, says what it found, and looks at validation alone."""

import gc
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import optuna
import pytest
from mlflow import MlflowClient

from bnadapt import start as bnadapt_start
from bnadapt.config import DataSettings, RangeSettings, SearchSettings
from bnadapt.data.splits import ArraySplit, Splits
from bnadapt.errors import SettingsError
from bnadapt.evaluation.verdict import best_stage
from bnadapt.normalization.proof import weights_digest
from bnadapt.pipeline import run_pipeline
from bnadapt.search.run import SearchOutcome, run_search
from bnadapt.search.space import draw
from bnadapt.search.study import finished
from bnadapt.setting_keys import with_values
from tests.searches import BAD, FINETUNE, NORMALIZE, quick
from tests.warm import start


@dataclass(frozen=True)
class Searched:
    directory: Path
    outputs: list[str]
    outcome: SearchOutcome
    splits: list[Splits]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.directory}/mlflow.db")

    @property
    def study(self) -> optuna.Study:
        url = f"sqlite:///{self.directory}/search.db"
        return optuna.load_study(study_name=self.outcome.study, storage=url)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Two processes' worth of one search: the first trial, then two more and one that a crash cut off."""
    directory = tmp_path_factory.mktemp("search")
    seen: list[Splits] = []
    outputs = []
    real = bnadapt_start.load

    def load(settings: DataSettings, shape: tuple[int, int, int]) -> Splits:
        seen.append(real(settings, shape))
        return seen[-1]

    def go(trials: int, number: int) -> SearchOutcome:
        outcome = run_search(
            quick(trials=trials),
            directory / f"out{number}",
            command=["bnadapt", "experiment=search", f"search.trials={trials}"],
            tags={"data": "digits", "schedule": "x"},
        )
        outputs.append((directory / "printed").read_text())
        return outcome

    gc.freeze()  # every trial collects garbage: not through all the libraries
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
        patch.setenv("COLUMNS", "100")
        patch.setattr(bnadapt_start, "load", load)
        # Two trials to compare with instead of five: the others would only take time.
        patch.setattr("bnadapt.search.trial.STARTUP_TRIALS", 2)
        patch.setattr("bnadapt.search.trial.COMPARED", 2)
        patch.setattr(
            "bnadapt.search.run.Console", lambda **options: console_into(directory / "printed", options)
        )
        first = go(1, 1)
        study = optuna.load_study(study_name=first.study, storage=f"sqlite:///{directory}/search.db")
        study.enqueue_trial(BAD)
        cut_off = study.ask()
        left = MlflowClient(f"sqlite:///{directory}/mlflow.db").create_run("1", run_name="left running")
        draw(cut_off, quick())
        cut_off.set_user_attr("run_id", left.info.run_id)
        for rate in (1e-3, 1e30):
            study.enqueue_trial({"policy": "batch", "finetune_rate": rate})
        last = go(4, 2)
    gc.unfreeze()
    return Searched(directory, outputs, last, seen)


def console_into(file: Path, options: dict[str, Any]) -> Any:
    from rich.console import Console

    return Console(file=file.open("w", encoding="utf-8", buffering=1), width=100, **options)


def test_the_first_trial_is_the_settings_as_they_stand(searched: Searched) -> None:
    first = searched.outcome.trials[0]
    assert first.values == {FINETUNE: 0.0001, NORMALIZE: "batch"}
    assert searched.outcome.standing == first


def test_trials_are_what_became_of_them(searched: Searched) -> None:
    trials = searched.outcome.trials
    assert [trial.place for trial in trials] == [1, 2, 3, 4]
    assert [trial.values[FINETUNE] for trial in trials] == [1e-4, 1e-3, 1e30, 10.0]
    assert [trial.state for trial in trials] == ["complete", "complete", "failed", "pruned"]
    assert "stage finetune: the loss is" in trials[2].error
    assert "Lower schedule.finetune.learning_rate (now 1e+30)" in trials[2].error
    best = max((trial for trial in trials if trial.score is not None), key=lambda trial: trial.score or 0)
    assert searched.outcome.best == best


@pytest.mark.fault(
    "process: a search with a trial that was cut off",
    "the trial is tried again, the others and the baseline are kept",
)
def test_a_search_goes_on_and_repeats_what_was_cut_off(searched: Searched) -> None:
    first, second = searched.outputs
    assert "1 trial, in sqlite:///search.db" in first
    assert "1 of 4 trials was there already\n  one that had not ended is tried again" in second
    assert "shared by all trials" in first
    assert "baseline: as trained before, from " in second
    assert "shared by all trials" not in second
    states = [trial.state.name for trial in searched.study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "FAIL", "PRUNED"]
    assert searched.study.trials[1].params == searched.study.trials[4].params == BAD
    assert len(finished(searched.study)) == 4


@pytest.mark.slow
def test_the_scores_are_those_of_the_pipeline_with_these_settings(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(searched.directory / "cache"))
    trial = searched.outcome.trials[1]
    settings = with_values(quick(), trial.values)
    settings.search = SearchSettings()
    settings.stages = ["baseline", "insert", "finetune"]
    outcome = run_pipeline(settings, tmp_path / "out")
    best = best_stage(outcome.results)
    assert best.name == trial.stage
    validation = best.validation
    assert validation is not None
    assert (validation.accuracy, validation.loss) == (trial.accuracy, pytest.approx(trial.loss, rel=1e-6))
    assert searched.outcome.command.startswith(f"bnadapt {FINETUNE}=")


def test_the_test_images_are_not_read(searched: Searched) -> None:
    assert len(searched.splits) == 2
    for splits in searched.splits:
        assert isinstance(splits.test, ArraySplit)
        assert splits.train._decoded is not None
        assert splits.test._decoded is None
    assert "The test images have not been looked at." in searched.outputs[1]


def test_every_trial_is_a_run_below_the_searches(searched: Searched) -> None:
    client = searched.client
    parent = client.get_run(searched.outcome.run_id)
    assert parent.data.tags["study"] == searched.outcome.study
    assert parent.data.tags["kind"] == "search"
    assert parent.data.metrics["val_accuracy"] == searched.outcome.best.accuracy
    assert "schedule" not in parent.data.params  # trials differ in it
    assert parent.info.status == "FINISHED"
    runs = client.search_runs(["1"], order_by=["start_time ASC"])
    trials = {run.info.run_name: run for run in runs if run.info.run_name.endswith("_trial")}
    assert list(trials) == [f"{place}_trial" for place in range(1, 5)]
    for trial in searched.outcome.trials:
        run = trials[f"{trial.place}_trial"]
        assert float(run.data.params[FINETUNE]) == trial.values[FINETUNE]
        assert run.info.status == ("FAILED" if trial.state == "failed" else "FINISHED")
        assert ("pruned" in run.data.tags) == (trial.state == "pruned")
    whole = trials["2_trial"].info.run_id
    assert [each.step for each in client.get_metric_history(whole, "val_loss")] == [0, 1, 2, 3, 4]
    assert trials["2_trial"].data.metrics["val_accuracy"] == searched.outcome.trials[1].accuracy
    pruned = client.get_metric_history(trials["4_trial"].info.run_id, "val_loss")
    assert [each.step for each in pruned] == [0, 1]  # two epochs were spared
    (left,) = [run for run in runs if run.info.run_name == "left running"]
    assert left.info.status == "KILLED"


def test_the_baseline_is_kept_with_the_hash_of_its_weights(searched: Searched) -> None:
    path = searched.directory / "search" / searched.outcome.study / "baseline.keras"
    network = keras.saving.load_model(path, compile=False)
    assert searched.study.user_attrs["baseline"] == weights_digest(network)
    assert not [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]


def test_plots_and_table_lie_with_the_run(searched: Searched, tmp_path: Path) -> None:
    out = searched.directory / "out2" / "plots"
    assert {path.name for path in out.iterdir()} == {"search.png", "settings.png"}
    client = searched.client
    files = {file.path for file in client.list_artifacts(searched.outcome.run_id)}
    assert {"trials.csv", "command.txt", "config.yaml", "plan.txt", "plots"} <= files
    table = Path(client.download_artifacts(searched.outcome.run_id, "trials.csv", str(tmp_path))).read_text()
    assert table.splitlines()[0] == (
        "trial,schedule.finetune.learning_rate,schedule.finetune.normalize,state,best_stage,val_accuracy,val_loss,"
        "seconds,error"
    )
    assert len([row for row in table.splitlines() if row.startswith(tuple("123456789"))]) == 4


def test_the_outcome_says_what_was_gained_and_how_to_go_on(searched: Searched) -> None:
    text = searched.outputs[1]
    assert f"best by validation: trial {searched.outcome.best.place} of 4, " in text
    assert "the settings as they stand" in text
    assert "the baseline, without batch normalization: " in text
    assert searched.outcome.command in text
    assert "more trials: bnadapt experiment=search search.trials=8" in text


@pytest.mark.slow
def test_nothing_is_recorded_where_a_study_of_other_settings_is_refused(
    searched: Searched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(searched.directory)
    monkeypatch.setenv("XDG_CACHE_HOME", str(searched.directory / "cache"))
    settings = quick(study=searched.outcome.study, trials=9)
    settings.schedule["finetune"].epochs = 4
    runs = len(searched.client.search_runs(["1"]))
    with pytest.raises(
        SettingsError, match=f"search.study={searched.outcome.study}: its trials were made with"
    ):
        run_search(settings, searched.directory / "refused")
    assert len(searched.client.search_runs(["1"])) == runs


@pytest.mark.slow
def test_a_lost_baseline_is_trained_again_and_settings_outside_the_space_are_scored(
    searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("search.db", "mlflow.db", "search"):
        source = searched.directory / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(searched.directory / "cache"))
    printed = tmp_path / "printed"
    monkeypatch.setattr("bnadapt.search.run.Console", lambda **options: console_into(printed, options))
    path = tmp_path / "search" / searched.outcome.study / "baseline.keras"
    path.write_bytes(path.read_bytes()[:1000])
    study = optuna.load_study(study_name=searched.outcome.study, storage=f"sqlite:///{tmp_path}/search.db")
    study.enqueue_trial({"policy": "batch", "finetune_rate": 1e-4})
    again = run_search(quick(trials=5, pruning=False), tmp_path / "out")
    assert (
        "baseline.keras no longer holds the network of this study; it is trained again" in printed.read_text()
    )
    assert "compare across with care" not in printed.read_text()  # the same weights by the same seed
    assert (again.trials[4].accuracy, again.trials[4].loss) == (
        again.trials[0].accuracy,
        again.trials[0].loss,
    )
    other = quick(trials=1)
    other.search.space = {"momentum": RangeSettings(key="insertion.momentum", low=0.5, high=0.9)}
    outside = run_search(other, tmp_path / "out")
    assert outside.standing is not None
    assert (outside.standing.place, outside.standing.values) == (0, {"insertion.momentum": None})
    assert outside.standing.accuracy == again.trials[0].accuracy
    assert "settings as they stand, outside the space: " in printed.read_text()


@pytest.mark.fault(
    "process: SIGKILL in a search",
    "goes on; the same trials with the same scores as undisturbed",
)
@pytest.mark.slow
def test_a_search_that_is_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    arguments = [
        "experiment=search", "search.trials=4", "model.widths=[16]", "baseline.epochs=3", "schedule.adapt.epochs=2",
        "schedule.finetune.epochs=2", "tracking.system_metrics=false",
    ]  # fmt: skip

    def trials(directory: Path) -> list[tuple[Any, ...]]:
        (name,) = optuna.get_all_study_names(f"sqlite:///{directory}/search.db")
        study = optuna.load_study(study_name=name, storage=f"sqlite:///{directory}/search.db")
        keys = ("place", "values", "accuracy", "loss")
        return [tuple(trial.user_attrs[key] for key in keys) for trial in finished(study)]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for directory in (whole, cut):
        directory.mkdir()
    _, errors = start(*arguments, cwd=whole).communicate(timeout=170)
    assert errors == ""
    process = start(*arguments, cwd=cut)
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("trial 2 of 4"):
            break
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(trials(cut)) == 2
    output, errors = start(*arguments, cwd=cut).communicate(timeout=170)
    assert errors == ""
    assert "2 of 4 trials were there already" in output
    assert "baseline: as trained before" in output
    assert trials(cut) == trials(whole)
    assert len(trials(whole)) == 4
    runs = MlflowClient(f"sqlite:///{cut}/mlflow.db").search_runs(["1"])
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
