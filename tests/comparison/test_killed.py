"""Comparisons that are killed go on, and find to the last bit what they would have found."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import pytest
from mlflow import MlflowClient

from bnadapt.normalization.proof import weights_digest
from tests.command import Finished
from tests.comparison.killing import kill_once
from tests.interrupted import comparable, journal_of, left, steps_that_repeat
from tests.warm import bnadapt

SMALL = [
    "experiment=compare",
    "data@baseline_data=digits",
    "baseline_data.split_seed=1",
    "baseline_data.train_limit=400",
    "data.shift=contrast",
    "data.labels_per_class=5",
    "model.widths=[32,16]",
    "baseline.epochs=2",
    "comparison.steps=20",
    "comparison.looks=2",
    "comparison.learning_rates=[0.001,0.01]",
    "comparison.seeds=[0,1]",
    "comparison.bootstrap=1000",
    "comparison.only=[bn_only,statistics]",
    "tracking.system_metrics=false",
]
pytestmark = pytest.mark.slow


@dataclass
class Whole:
    """A comparison that nothing interrupted."""

    finished: Finished
    journal: dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    directory = tmp_path_factory.mktemp("whole")
    finished = bnadapt(*SMALL, cwd=directory)
    assert finished.code == 0, finished.output + finished.errors
    return Whole(finished, journal_of(directory))


def times_left_out(entry: Any) -> Any:
    """The same without what differs between two processes that do the same: seconds, places and their hashes.

    Keys hold a digest of the code, which may be worked on meanwhile.
    """
    if isinstance(entry, dict):
        apart = ("seconds", "elapsed", "network", "sha256", "key")
        return {key: times_left_out(value) for key, value in entry.items() if key not in apart}
    return [times_left_out(each) for each in entry] if isinstance(entry, list) else entry


def table(text: str) -> list[str]:
    """What a comparison prints from its table on, without times and places."""
    lines = text[text.index("4 arms") :].splitlines()
    return [line for line in lines if not line.startswith(("took", "report:", "run:", "kept:", "look"))]


def assert_the_same(whole: Whole, again: Finished) -> None:
    """Compare what an interrupted comparison left with what the whole one left."""
    assert again.code == 0, again.output + again.errors
    expected, found = left(whole.finished.directory), left(again.directory)
    assert found.weights == expected.weights
    assert len(found.weights) == 10  # two baselines and eight arms
    assert found.parents == 1
    assert set(found.statuses.values()) == {"FINISHED"}
    assert steps_that_repeat(found.metrics) == []
    assert comparable(found.metrics) == comparable(expected.metrics)
    assert found.files == expected.files
    journal = journal_of(again.directory)
    assert times_left_out(journal["ended"]) == times_left_out(whole.journal["ended"])
    assert journal["outcome"]["sentences"] == whole.journal["outcome"]["sentences"]
    assert table(again.output) == table(whole.finished.output)
    plots = {
        path.name: path.read_bytes() for path in whole.finished.directory.glob("outputs/*/*/plots/*.png")
    }
    assert plots == {path.name: path.read_bytes() for path in again.directory.glob("outputs/*/*/plots/*.png")}
    first, second = (next(each.directory.glob("outputs/*/*/best.keras")) for each in (whole.finished, again))
    assert weights_digest(keras.saving.load_model(first)) == weights_digest(keras.saving.load_model(second))


@pytest.mark.fault(
    "process: SIGKILL at five moments of a comparison",
    "goes on; every arm bit-identical, nothing that had ended is done again, same table and plots",
)
@pytest.mark.parametrize(
    ("moment", "done"),
    [
        ("baseline_s0_any", 0),
        ("further_training_s0_5_rate0", 1),
        ("statistics_s0_5", 3),
        ("further_training_s1_5", 6),
        ("bn_only_s1_5", 8),
    ],
)
def test_a_killed_comparison_finds_the_same(whole: Whole, moment: str, done: int, tmp_path: Path) -> None:
    kill_once(SMALL, moment, tmp_path)
    before = journal_of(tmp_path)
    again = bnadapt(*SMALL, "resume=true", cwd=tmp_path)
    assert f"goes on with run {before['run_id']}" in again.output
    assert again.run_id == before["run_id"]
    assert again.output.count("(had ended)") >= done
    for name, entry in before["ended"].items():
        now = journal_of(tmp_path)["ended"].get(name, entry)
        assert now == entry, name  # nothing that had ended was done again
    assert_the_same(whole, again)


@pytest.mark.fault(
    "process: Ctrl-C in a comparison",
    "runs marked as killed, the command to go on is printed and ends with the same results",
)
def test_an_interrupted_comparison_says_how_to_go_on(whole: Whole, tmp_path: Path) -> None:
    said = kill_once(SMALL, "untouched_s0_5", tmp_path, number=signal.SIGINT)
    run_id = journal_of(tmp_path)["run_id"]
    assert f"go on with it: bnadapt resume={run_id}" in said
    statuses = set(left_behind(tmp_path).values())
    assert "KILLED" in statuses
    assert "RUNNING" not in statuses
    again = bnadapt(f"resume={run_id}", cwd=tmp_path)
    assert again.run_id == run_id
    assert_the_same(whole, again)


@pytest.mark.fault(
    "disk: a damaged network of an arm that had ended",
    "that arm is made again, the others are kept; the same results",
)
def test_a_network_that_was_damaged_is_made_again(whole: Whole, tmp_path: Path) -> None:
    kill_once(SMALL, "statistics_s0_5", tmp_path)
    entry = journal_of(tmp_path)["ended"]["further_training_s0_5"]
    with Path(entry["network"]).open("ab") as file:
        file.write(b"!")
    again = bnadapt(*SMALL, "resume=true", cwd=tmp_path)
    had_ended = re.findall(r"seed 0  (\w+): .* \(had ended\)", again.output)
    assert had_ended == ["untouched", "statistics"]
    assert_the_same(whole, again)


@pytest.mark.fault(
    "process: fewer arms after a comparison was killed",
    "arms that are the same are taken over with their scores",
)
def test_what_is_still_the_same_is_taken_over(whole: Whole, tmp_path: Path) -> None:
    kill_once(SMALL, "statistics_s0_5", tmp_path)
    origin = journal_of(tmp_path)["run_id"]
    again = bnadapt(*SMALL, "comparison.only=[bn_only]", "resume=true", cwd=tmp_path)
    assert again.code == 0, again.output + again.errors
    assert again.run_id != origin
    taken = re.findall(r"seed (\d)  (\w+): .* \(from run (\w+)\)", again.output)
    assert taken == [("0", "untouched", origin), ("0", "further_training", origin)]
    runs = {run.info.run_name: run for run in again.client.search_runs(["1"], below(again.run_id))}
    expected = left(whole.finished.directory)
    assert {name: run.data.tags["weights_sha256"] for name, run in runs.items()} == {
        name: digest for name, digest in expected.weights.items() if not name.startswith("statistics")
    }
    assert {name for name, run in runs.items() if run.data.tags.get("from_run") == origin} == {
        "baseline s0 5/class",
        "untouched s0 5/class",
        "further_training s0 5/class",
    }
    for name, run in runs.items():
        for key in ("val_accuracy", "val_loss", "test_accuracy"):
            if key in run.data.metrics:
                assert run.data.metrics[key] == expected.metrics[name][key][-1][1]


def test_a_finished_comparison_is_found_and_not_repeated(whole: Whole) -> None:
    before = left_behind(whole.finished.directory)
    again = bnadapt(*SMALL, "resume=true", cwd=whole.finished.directory)
    assert again.code == 0, again.errors
    assert f"run {whole.finished.run_id} did this before" in again.output
    assert whole.journal["outcome"]["sentences"][0] in again.output
    report = re.search(r"^report: (.+)$", again.output, re.MULTILINE)
    assert report is not None
    assert Path(report[1]).is_file()
    assert left_behind(whole.finished.directory) == before


def test_another_setting_is_refused_by_name(whole: Whole) -> None:
    run_id = whole.finished.run_id
    again = bnadapt(*SMALL, "comparison.steps=30", f"resume={run_id}", cwd=whole.finished.directory)
    assert again.code == 1
    assert (
        f"resume={run_id}: that run cannot be gone on with like this: comparison.steps was 20, is 30."
        in again.errors
    )


@pytest.mark.fault(
    "training: a comparison killed after an arm's loss was NaN",
    "goes on without trying that arm again, and says so",
)
def test_an_arm_that_ran_away_is_not_tried_again(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "comparison"
    mine.mkdir(parents=True)
    (mine / "wild.yaml").write_text(
        "# Mine.\ndefaults: [arms]\narms:\n  wild:\n    schedule:\n      all: {train: [all], rate: 1.0e+38}\n"
    )
    words = ["--config-dir", "mine", "comparison=wild", *SMALL[1:], "comparison.only=[head,wild]"]
    words += ["comparison.learning_rates=[0.01]", "comparison.optimizer=sgd"]
    kill_once(words, "wild_s0_5", tmp_path)
    again = bnadapt(*words, "resume=true", cwd=tmp_path)
    assert again.code == 0, again.output + again.errors
    assert "arm wild is left out, no learning rate kept its loss finite with seed 0" in again.output
    assert "wild at learning rate" not in again.output
    assert set(left_behind(tmp_path).values()) == {"FINISHED"}


def left_behind(directory: Path) -> dict[str, str]:
    """The status of every run in MLflow by its id."""
    client = MlflowClient(f"sqlite:///{directory}/mlflow.db")
    return {run.info.run_id: run.info.status for run in client.search_runs(["1"])}


def below(run_id: str) -> str:
    return f"tags.`mlflow.parentRunId` = '{run_id}'"
