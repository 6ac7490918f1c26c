"""Commands and configurations of an attacker, through the real command: refused, and nothing of theirs has run."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from bnadapt.cli.targets import TargetError, check_directories, check_hydra_part
from tests.command import bnadapt

MARKER = "harm-was-done"
HARM = f"open('{MARKER}', 'w').close()\n"


def refused(directory: Path, *arguments: str, message: str, code: int = 2) -> None:
    finished = bnadapt(*arguments, "stages=[baseline]", "baseline.epochs=0", cwd=directory)
    assert message in " ".join(finished.errors.split())
    assert finished.code == code
    assert "Traceback" not in finished.errors
    assert not (directory / MARKER).exists()
    assert not (directory / "mlflow.db").exists()


def write(directory: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


SYSTEM = "{_target_: os.system, command: touch " + MARKER + "}"
EVIL = "# @package _global_\n"
IN_FILES = {
    "callback": (EVIL + f"hydra:\n  callbacks:\n    x: {SYSTEM}\n", "hydra.callbacks.x._target_=os.system"),
    "launcher": (
        EVIL + "hydra:\n  launcher:\n    _target_: evil.Harm\n",
        "hydra.launcher._target_=evil.Harm",
    ),
    "logging": (
        EVIL + "hydra:\n  job_logging:\n    filters:\n      x: {'()': evil.Harm}\n",
        "hydra.job_logging.filters.x.()=evil.Harm",
    ),
    "import": (
        EVIL + "hydra:\n  job_logging:\n    handlers:\n      file: {filename: 'ext://evil.x'}\n",
        "hydra.job_logging.handlers.file.filename=ext://evil.x",
    ),
}


@pytest.mark.fault(
    "attack: _target_ in a file of settings",
    "refused before anything is imported; nothing runs",
)
@pytest.mark.parametrize(
    "name", ["callback", *(pytest.param(each, marks=pytest.mark.slow) for each in list(IN_FILES)[1:])]
)
def test_files_of_settings_that_reach_into_hydra(name: str, tmp_path: Path) -> None:
    text, message = IN_FILES[name]
    write(tmp_path, {"mine/data/birds.yaml": text, "evil.py": HARM})
    refused(tmp_path, "--config-dir", "mine", "data=birds", message=message)


@pytest.mark.fault(
    "attack: _target_ among the settings",
    "refused as an unknown setting; nothing runs",
)
@pytest.mark.slow
@pytest.mark.parametrize("group", ["data", "model", "schedule"])
def test_a_target_among_the_settings_is_an_unknown_setting(group: str, tmp_path: Path) -> None:
    stage = "adapt" if group == "schedule" else ""
    write(tmp_path, {f"mine/{group}/evil.yaml": f"{stage}: {SYSTEM}" if stage else SYSTEM})
    finished = bnadapt("--config-dir", "mine", f"{group}=evil", cwd=tmp_path)
    assert f"{'.'.join(filter(None, (group, stage)))}._target_: there is no such setting" in finished.errors
    assert finished.code != 0
    assert not (tmp_path / MARKER).exists()


@pytest.mark.fault(
    "attack: _target_ in one option of a sweep",
    "refused; nothing runs",
)
def test_one_option_of_a_sweep_is_checked_like_a_single_one(tmp_path: Path) -> None:
    write(tmp_path, {"mine/data/birds.yaml": IN_FILES["logging"][0], "evil.py": HARM})
    refused(tmp_path, "-m", "--config-dir", "mine", "data=digits,birds", message=IN_FILES["logging"][1])


@pytest.mark.fault(
    "attack: _target_ and search paths on the command line",
    "refused; nothing runs",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["+hydra.callbacks.x._target_=os.system", f"+hydra.callbacks.x.command='touch {MARKER}'"],
            "os.system",
        ),
        (["-m", "hydra.sweeper._target_=evil.Harm"], "hydra.sweeper._target_=evil.Harm"),
        (["-m", "hydra.launcher._target_=evil.Harm"], "hydra.launcher._target_=evil.Harm"),
        (["hydra.searchpath=[pkg://evil]"], "hydra.searchpath=pkg://evil: no package is imported"),
        (["--config-path", "pkg://evil"], "--config-path=pkg://evil: no package is imported"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_words_that_reach_into_hydra(arguments: list[str], message: str, tmp_path: Path) -> None:
    write(tmp_path, {"evil.py": HARM, "evil/__init__.py": HARM})
    refused(tmp_path, *arguments, message=message)


def test_a_primary_file_that_searches_in_a_package(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "mine/own.yaml": "defaults: [config]\nhydra:\n  searchpath: ['pkg://evil']\n",
            "evil/__init__.py": HARM,
        },
    )
    refused(tmp_path, "--config-dir", "mine", "--config-name", "own", message="hydra.searchpath=pkg://evil")


@pytest.mark.slow
def test_a_resolver_of_somebody_s_own_is_not_there(tmp_path: Path) -> None:
    write(tmp_path, {"mine/data/birds.yaml": "name: ${evil:os.system}\n"})
    finished = bnadapt("--config-dir", "mine", "data=birds", cwd=tmp_path)
    assert "Unsupported interpolation type evil" in finished.errors
    assert finished.code != 0


# The same check on parts of configurations: every way in.


def part(path: str, value: object) -> dict[str, object]:
    made: object = value
    for name in reversed(path.split("/")):
        made = {name: made}
    assert isinstance(made, dict)
    return made


@pytest.mark.fault(
    "attack: _target_ at any place that Hydra would call",
    "refused",
)
@pytest.mark.parametrize(
    "value",
    [
        "os.system",
        "builtins.exec",
        "subprocess.run",
        "hydra.utils.get_object",
        "hydra.utils.instantiate",
        "hydra._internal.utils._locate",
        "hydra._internal.core_plugins.basic_launcher.Path",
        "hydra._internal.core_plugins.basic_sweeper.itertools.starmap",
        "hydra.core.utils.logging.os.system",
        "hydra_plugins.evil.Harm",
        "hydra",
        "hydraevil.Launcher",
        "",
        "${hydra.job.name}",
        "${oc.env:TARGET}",
    ],
)
@pytest.mark.parametrize(
    "place", ["callbacks/x", "launcher", "sweeper", "launcher/deep/deeper", "callbacks/x/_args_"]
)
def test_targets_that_are_no_plugins(place: str, value: str) -> None:
    with pytest.raises(TargetError, match=r"^hydra\..*_target_="):
        check_hydra_part(part(f"{place}/_target_", value))
    with pytest.raises(TargetError, match=r"^hydra\..*_target_"):
        check_hydra_part(part(place, [{"_target_": [value]}]))


@pytest.mark.parametrize(
    "value",
    [
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra.experimental.callbacks.LogJobReturnCallback",
    ],
)
def test_hydra_s_own_parts_may_stand_there(value: str) -> None:
    check_hydra_part(part("launcher/_target_", value))


@pytest.mark.fault(
    "attack: calls and imports in the settings of logging",
    "refused",
)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("handlers/x/()", "evil.Harm"),
        ("handlers/x/()", "logging.StreamHandler"),
        ("formatters/x/()", "evil.Harm"),
        ("formatters/x/class", "evil.Harm"),
        ("filters/x/()/y", "evil.Harm"),
        ("handlers/x/class", "evil.Harm"),
        ("handlers/x/class", "logging.handlers.SocketHandler"),
        ("handlers/x/class", "logging.handlers.QueueHandler"),
        ("handlers/x/class", "${hydra.job.name}"),
        ("handlers/x/stream", "ext://evil.x"),
        ("handlers/x/filename", "cfg://handlers.x"),
        ("handlers/x/filename", "${hydra.sweep.dir}x${oc.env:HOME}"),
        ("handlers/x/filename", "${hydra.callbacks}"),
        ("handlers/x/_target_", "os.system"),
        ("handlers", "${hydra.job.env_set}"),
    ],
)
@pytest.mark.parametrize("section", ["job_logging", "hydra_logging"])
def test_logging_that_calls_or_imports(section: str, path: str, value: str) -> None:
    with pytest.raises(TargetError, match=rf"^hydra\.{section}\."):
        check_hydra_part(part(f"{section}/{path}", value))


@pytest.mark.fault(
    "attack: variables such as LD_PRELOAD set by a file of settings",
    "refused",
)
@pytest.mark.parametrize(
    "name", ["PATH", "LD_PRELOAD", "PYTHONPATH", "GIT_SSH_COMMAND", "HDF5_PLUGIN_PATH", "XLA_FLAGS"]
)
def test_variables_that_change_what_runs(name: str) -> None:
    with pytest.raises(
        TargetError, match=rf"^hydra\.job\.env_set\.{name}: this variable may change which programs run"
    ):
        check_hydra_part({"job": {"env_set": {name: "/tmp/evil"}}})
    check_hydra_part({"job": {"env_set": {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}}})


@pytest.mark.fault(
    "misuse: a token in the name of an experiment or a directory",
    "refused before MLflow or the directory is made; the token is found nowhere",
)
@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "tracking.experiment=exp-${oc.env:MY_TOKEN}",
            "tracking.experiment=exp-***: this holds the value of",
        ),
        (
            "hydra.run.dir=out/${oc.env:MY_TOKEN}",
            "hydra.run.dir: a directory would be called after the value of",
        ),
        pytest.param(
            "data.path=${oc.env:HOME}/nowhere",
            "/nowhere",
            marks=pytest.mark.slow,
            id="no secret",
        ),
    ],
)
def test_secrets_in_names(word: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2-hunter2")
    finished = bnadapt("data=folder", word, *([] if "data.path" in word else ["data.path=x"]), cwd=tmp_path)
    assert message in " ".join(finished.errors.split())
    assert ("MY_TOKEN" in finished.errors) == ("MY_TOKEN" in word)
    assert finished.code != 0
    assert not (tmp_path / "mlflow.db").exists()
    assert not (tmp_path / "out").exists()
    for path in tmp_path.rglob("*"):
        assert "hunter2" not in path.name
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


def test_directories_of_a_sweep_are_called_after_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2-hunter2")
    monkeypatch.setenv("A_PASSWORD", "bnadapt")
    plain = {
        "job": {"name": "bnadapt", "num": "???"},
        "run": {"dir": "${oc.env:HOME}/x"},
        "sweep": {"dir": "y", "subdir": "${hydra.job.num}"},
        "output_subdir": None,
    }
    config = OmegaConf.create({"hydra": plain, "seed": "${oc.env:MY_TOKEN}"})
    check_directories(config)
    for value in (
        "${hydra.job.num}-${oc.env:MY_TOKEN}",
        "${seed}",
        "hunter2-hunter2",
        "${oc.env:MY_TOKEN,none}",
    ):
        config.hydra.sweep.subdir = value
        with pytest.raises(TargetError, match=r"^hydra\.sweep\.subdir: .* variable MY_TOKEN; leave it out$"):
            check_directories(config)


def test_the_check_costs_next_to_nothing(tmp_path: Path) -> None:
    code = (
        "import time, hydra, bnadapt.cli\n"
        "from hydra.core.config_store import ConfigStore\n"
        "from bnadapt.config import Settings\n"
        "from bnadapt.cli.targets import check_hydra_part\n"
        "from omegaconf import OmegaConf\n"
        "ConfigStore.instance().store(name='schema', node=Settings)\n"
        "with hydra.initialize_config_dir(str(bnadapt.cli.configuration_directory()), version_base='1.3'):\n"
        "    part = hydra.compose('config', return_hydra_config=True).hydra\n"
        "start = time.perf_counter()\n"
        "check_hydra_part(OmegaConf.to_container(part, resolve=False))\n"
        "print(time.perf_counter() - start)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.5
