"""SIGKILL at random moments of a pipeline, gone on with each time: the end is as if nothing had happened."""

from pathlib import Path

import pytest

from tests import command, warm
from tests.interrupted import Left, comparable, left, run_with_kills, steps_that_repeat

SMALL = ["data.batch_size=16", "baseline.epochs=3", "schedule.adapt.epochs=2", "schedule.finetune.epochs=2"]
CASES = {
    "mlp": [*SMALL, "model.widths=[64,32]", "model.dropout=0.3", "checkpoints.every_steps=20"],
    "cnn": [*SMALL, "model=cnn", "model.filters=[8,8]", "model.dropout=0.2", "placement=after_activation"],
    "steps": [
        *(
            "data.labels_per_class=10",
            "model.widths=[32]",
            "baseline.optimizer=sgd",
            "baseline.find_rate=true",
        ),
        *("schedule.adapt.steps=150", "schedule.adapt.looks=7", "schedule.finetune.steps=150"),
        *("schedule.finetune.decay=cosine", "schedule.finetune.layerwise_decay=0.8", "data.batch_size=16"),
    ],
    "other_data": [
        *(
            "data@baseline_data=digits",
            "data.shift=contrast",
            "model=cnn",
            "model.filters=[8]",
            "data.batch_size=16",
        ),
        *(
            "baseline.epochs=2",
            "schedule.adapt.epochs=3",
            "schedule.adapt.patience=1",
            "schedule.finetune.epochs=2",
        ),
    ],
}


def assert_as_if_never_killed(found: Left, whole: Left) -> None:
    assert found.weights == whole.weights
    assert comparable(found.metrics) == comparable(whole.metrics)
    assert not steps_that_repeat(found.metrics)
    assert found.parents == 1
    assert set(found.statuses.values()) == {"FINISHED"}
    assert found.files == whole.files


@pytest.mark.fault(
    "process: SIGKILL at twenty random moments of four pipelines",
    "goes on each time; weights bit-identical, metrics and files as if never killed, each step in MLflow once",
)
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_twenty_kills(case: str, tmp_path: Path) -> None:
    """Five kills for each of four pipelines."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    finished = warm.bnadapt(*CASES[case], cwd=undisturbed)
    assert finished.code == 0, finished.errors
    whole = left(undisturbed)
    kills, seed = 0, 0
    while kills < 5:
        directory = tmp_path / str(seed)
        directory.mkdir()
        # One of them as users start it, from Python's first import on.
        commands = command if case == "mlp" else warm
        end, number = run_with_kills(CASES[case], directory, 5 - kills, seed, longest=12, commands=commands)
        assert end.code == 0, end.errors
        assert_as_if_never_killed(left(directory), whole)
        kills, seed = kills + number, seed + 1
