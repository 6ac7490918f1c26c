"""Runs are gone on with, found again, taken over in part, and repeated: through the real command."""

import json
import re
import signal
from pathlib import Path

import pytest

from tests.command import QUICK, Finished
from tests.interrupted import (
    Left,
    comparable,
    ended_in,
    journal_of,
    killed_after,
    killed_opening,
    killed_when,
    left,
    steps_that_repeat,
)
from tests.warm import bnadapt

# Enough steps that a signal finds the stages at work.
LONGER = [
    "data=digits",
    "model=cnn",
    "model.filters=[8]",
    "model.dropout=0.2",
    *QUICK[:3],
    "data.batch_size=16",
]
SIGNAL_HEARD = (
    "ends in seconds, runs marked as killed; goes on to bit-identical weights, each step in MLflow once"
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Left]:
    """A pipeline that nothing disturbed, and what it left, read before any other run is made there."""
    finished = bnadapt(*LONGER, cwd=tmp_path_factory.mktemp("once"))
    assert finished.code == 0, finished.errors
    return finished, left(finished.directory)


@pytest.fixture(scope="module")
def once(undisturbed: tuple[Finished, Left]) -> Finished:
    """A pipeline that nothing disturbed; tests run others beside it and leave it as it is."""
    return undisturbed[0]


@pytest.fixture(scope="module")
def whole(undisturbed: tuple[Finished, Left]) -> Left:
    """What it left."""
    return undisturbed[1]


def test_each_step_of_each_metric_is_there_once(whole: Left) -> None:
    assert not steps_that_repeat(whole.metrics)
    assert set(whole.statuses.values()) == {"FINISHED"}


@pytest.mark.fault(
    "process: a finished pipeline asked for again",
    "found, its outcome told again, no run added",
)
def test_what_was_finished_is_found_and_not_repeated(once: Finished, whole: Left) -> None:
    before = len(once.client.search_runs(["1"]))
    again = bnadapt(*LONGER, "resume=true", "progress=none", cwd=once.directory)
    assert again.code == 0, again.errors
    assert (
        f"run {once.run_id} did this before, and nothing has changed since: it is not repeated"
        in again.output
    )
    assert again.run_id == once.run_id
    verdict = re.search(r"^report: (.+)$", once.output, re.MULTILINE)
    assert verdict is not None
    assert verdict[0] in again.output
    assert len(once.client.search_runs(["1"])) == before


@pytest.mark.fault(
    "process: one setting changed between two runs",
    "repeats only the stages that depend on it; their weights are those of a run from scratch",
)
@pytest.mark.slow
def test_a_change_repeats_what_depends_on_it_alone(once: Finished, tmp_path: Path) -> None:
    changed = bnadapt(*LONGER, "schedule.finetune.learning_rate=0.002", "resume=true", cwd=once.directory)
    assert changed.code == 0, changed.errors
    assert f"taken over from run {once.run_id}, the same there: baseline, insert, adapt" in changed.output
    assert list(changed.children()) == ["4_finetune", "5_control", "6_evaluate"]
    plain = bnadapt(*LONGER, "schedule.finetune.learning_rate=0.002", cwd=tmp_path)
    mine, theirs = (
        {name: run.data.tags.get("weights_sha256") for name, run in each.children().items()}
        for each in (changed, plain)
    )
    assert mine["4_finetune"] == theirs["4_finetune"]
    assert mine["5_control"] == theirs["5_control"]
    for key in ("test/1_baseline", "test/3_adapt", "test/4_finetune", "test_accuracy"):
        assert changed.parent.data.metrics[key] == plain.parent.data.metrics[key]
    # What was taken over counts as well when the run is done again, all of it.
    again = bnadapt(f"repeat={changed.run_id}", cwd=once.directory)
    assert again.code == 0, again.errors
    assert again.output.count("the same weights") == 5
    assert "repeated: every weight is the same, bit by bit" in again.output


@pytest.mark.parametrize(
    ("number", "word"),
    [
        pytest.param(
            signal.SIGINT,
            "interrupted",
            marks=pytest.mark.fault("process: Ctrl-C in a pipeline", SIGNAL_HEARD),
            id="SIGINT",
        ),
        pytest.param(
            signal.SIGTERM,
            "terminated",
            marks=[pytest.mark.slow, pytest.mark.fault("process: SIGTERM in a pipeline", SIGNAL_HEARD)],
            id="SIGTERM",
        ),
    ],
)
def test_a_signal_ends_it_in_seconds_and_it_goes_on(
    number: int, word: str, whole: Left, tmp_path: Path
) -> None:
    caught, _, errors, seconds = killed_after(4, *LONGER, cwd=tmp_path, number=number)
    assert caught
    assert seconds < 30  # a moment, where nothing else is at work
    run_id = str(journal_of(tmp_path)["run_id"])
    assert re.search(rf"^bnadapt: {word}\n +go on with it: bnadapt resume={run_id}$", errors, re.MULTILINE), (
        errors
    )
    statuses = {run.info.status for run in Finished(tmp_path, "", errors, 0).client.search_runs(["1"])}
    assert "KILLED" in statuses
    assert "RUNNING" not in statuses
    assert list(tmp_path.glob("checkpoints/*/stages/*.checkpoint")) or journal_of(tmp_path)["ended"]
    again = bnadapt(f"resume={run_id}", cwd=tmp_path)
    assert again.code == 0, again.errors
    assert f"goes on with run {run_id}" in again.output
    assert again.run_id == run_id
    found = left(tmp_path)
    assert set(found.statuses.values()) == {"FINISHED"}
    assert found.weights == whole.weights
    assert comparable(found.metrics) == comparable(whole.metrics)
    assert not steps_that_repeat(found.metrics)
    assert found.files == whole.files


@pytest.mark.fault(
    "process: told to go on with a run under other settings, or with one that is not there",
    "refused; the message names the setting with both values",
)
def test_a_run_is_not_gone_on_with_under_other_settings(once: Finished) -> None:
    run_id = once.run_id
    refused = bnadapt(*LONGER, "data.batch_size=32", f"resume={run_id}", cwd=once.directory)
    assert refused.code == 1
    reason = "that run cannot be gone on with like this: data.batch_size was 16, is 32"
    assert f"resume={run_id}: {reason}" in refused.errors
    missing = bnadapt(*LONGER, f"resume={0:032x}", cwd=once.directory)
    assert missing.code == 1
    assert "has no run of this id to go on with" in missing.errors


@pytest.mark.fault(
    "process: a run repeated from its id",
    "every weight of every stage the same, bit by bit",
)
@pytest.mark.slow
def test_a_run_is_repeated_from_its_id_bit_by_bit(once: Finished) -> None:
    again = bnadapt(f"repeat={once.run_id}", cwd=once.directory)
    assert again.code == 0, again.errors
    for label in ("1_baseline", "2_insert", "3_adapt", "4_finetune", "5_control"):
        assert f"{label}: the same weights" in again.output
    assert "repeated: every weight is the same, bit by bit" in again.output
    assert again.parent.data.tags["repeats"] == once.run_id
    words = bnadapt(f"repeat={once.run_id}", "seed=1", cwd=once.directory)
    assert words.code == 1
    assert "repeat=RUN_ID takes the settings of that run; leave out seed=1" in words.errors
    unknown = bnadapt("repeat=0123456789abcdef", cwd=once.directory)
    assert unknown.code == 1
    assert "repeat=0123456789abcdef: " in unknown.errors


@pytest.mark.fault(
    "process: a sweep started again with one of its jobs already done",
    "only the jobs that had not ended run; started a third time, none does",
)
@pytest.mark.slow
def test_a_sweep_goes_on_where_it_stopped(tmp_path: Path) -> None:
    words = ["-m", *QUICK, "evaluation.control=false", "seed=1,2,3"]

    def in_the_second_job() -> bool:
        ended = [
            json.loads(file.read_text())["ended"] for file in tmp_path.glob("checkpoints/*/journal.json")
        ]
        return len(ended) == 2 and any(list(each) == ["baseline"] for each in ended)

    killed_when(in_the_second_job, *words, cwd=tmp_path)
    again = bnadapt(*words, "resume=true", cwd=tmp_path)
    assert again.code == 0, again.errors
    assert again.output.count("did this before, and nothing has changed since: it is not repeated") == 1
    assert again.output.count(": baseline had ended") == 1
    assert again.output.count("baseline: epoch 1/") == 1  # of the third job
    runs = again.client.search_runs(["1"], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len([run for run in runs if "mlflow.parentRunId" not in run.data.tags]) == 3
    once_more = bnadapt(*words, "resume=true", cwd=tmp_path)
    assert once_more.output.count("did this before") == 3


@pytest.mark.fault(
    "process: killed after its run began in MLflow and before its journal was written",
    "goes on with that run; one parent, the same weights",
)
@pytest.mark.slow
def test_a_run_without_a_journal_yet_is_gone_on_with(whole: Left, tmp_path: Path) -> None:
    killed_opening(".journal.", *LONGER, cwd=tmp_path)
    assert not list(tmp_path.glob("checkpoints/*/journal.json"))
    again = bnadapt(*LONGER, "resume=true", cwd=tmp_path)
    assert again.code == 0, again.errors
    assert f"goes on with run {again.run_id}, which had only begun" in again.output
    found = left(tmp_path)
    assert found.parents == 1
    assert set(found.statuses.values()) == {"FINISHED"}
    assert found.weights == whole.weights
    assert comparable(found.metrics) == comparable(whole.metrics)


@pytest.mark.fault(
    "process: killed, and networks of ended stages lost or damaged meanwhile",
    "these stages and those after them are done again, the others not; the same weights",
)
@pytest.mark.slow
@pytest.mark.parametrize("damage", ["lost", "damaged"])
def test_an_ended_stage_whose_network_is_gone_is_done_again(damage: str, whole: Left, tmp_path: Path) -> None:
    killed_when(lambda: "adapt" in ended_in(tmp_path), *LONGER, cwd=tmp_path)
    (network,) = tmp_path.glob("outputs/*/*/models/2_insert.keras")
    network.unlink() if damage == "lost" else network.write_bytes(network.read_bytes()[:1000])
    again = bnadapt(*LONGER, "resume=true", cwd=tmp_path)
    assert again.code == 0, again.errors
    assert "2_insert.keras no longer holds what stage insert left; done again: insert, adapt" in again.errors
    assert ": baseline had ended" in again.output
    assert left(tmp_path).weights == whole.weights


@pytest.mark.fault(
    "store: the database of a finished run lost",
    "its stages are taken over, which is said; the new run points to no network of the lost store",
)
@pytest.mark.slow
def test_a_lost_store_does_not_cost_the_networks(tmp_path: Path) -> None:
    words = ["data=digits", *QUICK]
    before = bnadapt(*words, cwd=tmp_path)
    assert before.code == 0, before.errors
    (tmp_path / "mlflow.db").unlink()
    again = bnadapt(*words, "tracking.register_as=digits", "resume=true", cwd=tmp_path)
    assert again.code == 0, again.errors
    lost = f"run {before.run_id}, which is no longer in the tracking store"
    assert f"taken over from {lost}, the same there: baseline, insert, adapt, finetune" in again.output
    assert again.parent.info.status == "FINISHED"
    assert "from_run" not in again.parent.data.tags
    assert (
        "tracking.register_as=digits: nothing is registered, because the tracking store does not"
        in again.errors
    )
    journal = tmp_path / "checkpoints" / again.run_id / "journal.json"
    stages = json.loads(journal.read_text(encoding="utf-8"))["ended"]
    assert {name: entry["model_uri"] for name, entry in stages.items()} == dict.fromkeys(stages)
    assert {"baseline", "insert", "adapt", "finetune"} <= stages.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=false"], "resume=False: give true or the id of a run"),
        (["resume="], "resume=: give true or the id of a run"),
        (
            ["resume=true", f"repeat={'0' * 32}"],
            "repeat does a run again from its beginning, resume goes on with one",
        ),
        ([f"resume={'0' * 32}"], "has no run of this id to go on with"),
    ],
)
def test_what_cannot_be_gone_on_with_is_said_at_once(words: list[str], message: str, tmp_path: Path) -> None:
    refused = bnadapt(*words, cwd=tmp_path)
    assert refused.code == 1
    assert message in refused.errors
    assert "starting TensorFlow" not in refused.output
