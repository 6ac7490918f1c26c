"""The command as a user types it: what it prints, how fast it says no, and its exit codes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SECONDS_TO_SAY_NO = 10  # about one on an idle machine; never the ten and more that importing TensorFlow adds


def bnadapt(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bnadapt", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


MISTAKES = [
    (["data.nme=3"], 2, "data.nme: there is no such setting; data has source, name,"),
    (["data.nme=3"], 2, "(did you mean name?)"),
    (["foo=1"], 2, "foo: there is no such setting; at the top level there are data,"),
    (["data=mnst"], 2, "data=mnst: there is no such option; choose one of cifar10, digits,"),
    (["data=mnst"], 2, "(did you mean mnist?)"),
    (
        ["data.batch_size=abc"],
        2,
        "data.batch_size: Value 'abc' of type 'str' could not be converted to Integer",
    ),
    (["+data.bogus=3"], 2, "data.bogus: there is no such setting"),
    (["schedule.adapt.epochz=3"], 2, "(did you mean epochs?)"),
    (
        ["schedule=bn_only", "schedule.finetune.epochs=3"],
        2,
        "schedule.finetune: there is no such setting; schedule has adapt",
    ),
    (
        ["+schedule.polish.epochs=2"],
        2,
        "a stage cannot be added on the command line; put a schedule of your own",
    ),
    (["data"], 2, "Error parsing override 'data'"),
    (["--bogus"], 2, "unrecognized arguments: --bogus"),
    (["--config-dir", "nowhere"], 2, "nowhere' not found"),
    (
        ["data.batch_size=0", "seed=-1"],
        1,
        "data.batch_size=0: must be at least 1\n  seed=-1: must be at least 0",
    ),
    (["stages=[adpt]"], 1, "no stage is called adpt; there are baseline, insert, adapt, finetune, evaluate"),
    (["data=tfds"], 1, "data.name is missing: data=tfds needs data.name=NAME or NAME/CONFIG"),
    (["data=folder", "data.path=nowhere"], 1, "nowhere"),
    (["data=tfds", "data.name=mnisst"], 1, "mnist"),
    (["data=mnist", "data.dir=nowhere"], 1, "to fetch it: data.name=mnist data.download=true"),
    (["model=file", "model.path=nowhere.keras"], 1, "model.path=nowhere.keras: there is no such file"),
    (["stages=insert"], 2, "stages: must be a list; write stages=[...]"),
    (["a=[b"], 2, "a=[b: cannot be read as key=value"),
    (["=3"], 1, "this command cannot be started: ValueError: Config group override must be"),
    (
        ["stages=[adapt]"],
        1,
        "stage adapt needs stage insert, and no earlier run is named (from_run=RUN_ID). ",
    ),
    (["stages=[adapt]", "seed=3"], 1, "This makes it: bnadapt seed=3 'stages=[baseline,insert,adapt]'"),
    (["tracking.uri=./mlruns"], 1, "MLflow records in a database or on a server, not in a directory"),
    (["tracking.uri=ftp://x"], 1, "tracking.uri=ftp://x: MLflow records in a database or on a server"),
    (["model.activation=foo"], 1, "model.activation=foo: choose one of relu, elu,"),
    (["insertion.epsilon=2"], 1, "insertion.epsilon=2.0: must be less than 1"),
    (["seed=99999999999"], 1, "seed=99999999999: must be less than 4294967296"),
    (["-m", "seed=a,b"], 2, "seed: Value 'a' of type 'str' could not be converted to Integer"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES)
def test_a_mistake_gets_one_clear_message_and_no_traceback(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    start = time.monotonic()
    result = bnadapt(*arguments, cwd=tmp_path)
    assert message in result.stderr
    assert result.returncode == code
    assert "Traceback" not in result.stderr + result.stdout
    assert time.monotonic() - start < SECONDS_TO_SAY_NO


def test_a_traceback_comes_only_when_asked_for(tmp_path: Path) -> None:
    assert "Traceback" in bnadapt("seed=-1", "traceback=true", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: mnist\nimagesize: 3\n", "data/birds.yaml: data.imagesize: there is no such setting"),
        (
            "batch_size: many\n",
            "data/birds.yaml: data.batch_size: Value 'many' of type 'str' could not be converted",
        ),
        ("name: [1,\n", "a configuration file is not valid YAML"),
    ],
)
def test_a_mistake_in_a_users_file_names_the_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "birds.yaml").write_text(text)
    result = bnadapt("--config-dir", "mine", "data=birds", cwd=tmp_path)
    assert message in result.stderr
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_a_users_data_set_is_an_option_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "birds.yaml").write_text("source: folder\npath: pictures\nbatch_size: 8\n")
    result = bnadapt("--config-dir", "mine", "data=birds", "--cfg", "job", cwd=tmp_path)
    assert result.returncode == 0
    assert "  path: pictures" in result.stdout
    assert "  batch_size: 8" in result.stdout


def test_a_users_schedule_is_an_option_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "mine" / "schedule").mkdir(parents=True)
    (tmp_path / "mine" / "schedule" / "slow.yaml").write_text("polish:\n  epochs: 2\n  learning_rate: 1e-5\n")
    result = bnadapt("--config-dir", "mine", "schedule=slow", "--cfg", "job", cwd=tmp_path)
    assert "schedule:\n  polish:\n    train:\n    - all\n    epochs: 2\n" in result.stdout
    assert "    learning_rate: 1.0e-05\n" in result.stdout


def test_help_shows_the_commands_people_need_and_the_groups(tmp_path: Path) -> None:
    result = bnadapt("--help", cwd=tmp_path)
    assert result.returncode == 0
    for text in (
        "bnadapt stages=[adapt,finetune,evaluate] from_run=RUN_ID",
        "bnadapt data@baseline_data=mnist data=usps",
        "placement: after_activation, before_activation, input_only, none",
        "schedule: all, bn_only, bn_then_all, from_scratch, gradual, head_then_all",
    ):
        assert text in result.stdout
