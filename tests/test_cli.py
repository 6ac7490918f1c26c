"""The command as a user types it: what it prints, how fast it says no, and its exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnadapt.checks.words import require_used_words
from bnadapt.config import ArmSettings, Settings
from bnadapt.errors import SettingsError
from tests.command import start

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
    (
        ["experiment=search", "+search.space.rate.key=schedule.adapt.learning_rate"],
        2,
        "a range cannot be added on the command line; put a space of your own into a file, mine/search/NAME.yaml, and "
        "choose it: --config-dir mine search=NAME",
    ),
    (
        ["experiment=compare", "+comparison.arms.mine.position=chosen"],
        2,
        "an arm cannot be added on the command line; put arms of your own into a file, mine/comparison/NAME.yaml, and "
        "choose it: --config-dir mine comparison=NAME",
    ),
    (
        ["experiment=compare", "+comparison.arms.head.schedule.polish.share=1"],
        2,
        "a stage of an arm cannot be added on the command line; put arms of your own into a file",
    ),
    (
        ["experiment=search", "schedule=bn_only"],
        1,
        "search.space.finetune_rate.key=schedule.finetune.learning_rate: there is no such setting; did you mean "
        "schedule.adapt.learning_rate or schedule.adapt.find_rate, or leave the range out: ~search.space.finetune_rate",
    ),
    (
        ["experiment=compare", "schedule=bn_only", "evaluation.control=false"],
        1,
        "schedule=bn_only is not used by a comparison: arms have stages of their own: "
        "comparison.arms.NAME.schedule\n  evaluation.control=false is not used by a comparison: the reference arm is",
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


# One of each kind runs by default.
USUAL = (
    ["data.nme=3"],
    ["data=mnst"],
    ["data.batch_size=abc"],
    ["--bogus"],
    ["data.batch_size=0", "seed=-1"],
    ["data=mnist", "data.dir=nowhere"],
    ["model=file", "model.path=nowhere.keras"],
    ["a=[b"],
    ["stages=[adapt]", "seed=3"],
    ["tracking.uri=./mlruns"],
    ["-m", "seed=a,b"],
)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [each if each[0] in USUAL else pytest.param(*each, marks=pytest.mark.slow) for each in MISTAKES],
)
def test_a_mistake_gets_one_clear_message_and_no_traceback(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    start = time.monotonic()
    result = bnadapt(*arguments, cwd=tmp_path)
    assert message in result.stderr
    assert result.returncode == code
    assert "Traceback" not in result.stderr + result.stdout
    assert time.monotonic() - start < SECONDS_TO_SAY_NO


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("schedule=bn_only", "comparison.arms.NAME.schedule"),
        ("schedule.adapt.epochs=3", "comparison.arms.NAME.schedule"),
        ("+schedule.adapt.epochs=3", "comparison.arms.NAME.schedule"),
        ("~schedule.adapt", "comparison.arms.NAME.schedule"),
        ("insertion.init=standard", "comparison.arms.NAME.init"),
        ("evaluation.control=false", "comparison.reference=NAME"),
        ("schedule", None),  # the directory of --config-dir, say
        ("insertion.momentum=0.9", None),
        ("comparison.steps=30", None),
        ("experiment=schedule.adapt", None),
        ("schedules.adapt=3", None),
    ],
)
def test_a_comparison_refuses_words_that_its_arms_would_not_look_at(word: str, message: str | None) -> None:
    command = ["bnadapt", "experiment=compare", word]
    settings = Settings()
    require_used_words(settings, command)
    settings.comparison.arms["untouched"] = ArmSettings()
    if message is None:
        require_used_words(settings, command)
        return
    with pytest.raises(SettingsError) as error:
        require_used_words(settings, command)
    assert str(error.value).startswith(f"{word} is not used by a comparison: ")
    assert str(error.value).endswith(message)


QUICK_BASELINE = ["baseline.epochs=3", "model.widths=[16]", "tracking.system_metrics=false"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sign", "message"),
    [
        (
            ["experiment=search", *QUICK_BASELINE, "schedule.adapt.epochs=1000000"],
            "baseline: ",
            "bnadapt: interrupted\n  the trials that had ended are kept; the same command goes on with them",
        ),
        (
            ["experiment=compare", *QUICK_BASELINE, "comparison.steps=100000000"],
            "  1/",
            "bnadapt: interrupted\n  go on with it: bnadapt resume=",
        ),
    ],
)
def test_an_interrupt_says_what_is_kept(
    arguments: list[str], sign: str, message: str, tmp_path: Path
) -> None:
    process = start(*arguments, cwd=tmp_path)
    assert process.stdout is not None
    for text in process.stdout:
        if sign in text:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert message in errors
    assert "Traceback" not in errors
    assert process.returncode == 130


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


@pytest.mark.parametrize(
    ("words", "start"),
    [
        (["ui", "--help"], "bnadapt ui [tracking.KEY=VALUE ...]: open MLflow's pages on the recorded runs"),
        (
            ["deliver", "-h"],
            "bnadapt deliver [tracking.KEY=VALUE ...]: send what the tracking server has not",
        ),
    ],
)
def test_commands_have_help(words: list[str], start: str, tmp_path: Path) -> None:
    result = bnadapt(*words, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(start)


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
