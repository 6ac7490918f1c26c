"""Secrets in texts: found in whatever form, and nothing else is touched."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnadapt.checks.secrets import secrets_in_settings
from bnadapt.config import DataSettings, Settings, StageSettings, TrackingSettings
from bnadapt.secrets import redacted, redacted_values, remember


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://ann:hunter2@host:5000/x", "http://ann:***@host:5000/x"),
        (
            "tracking.uri=postgresql+psycopg2://ann:p/a@s:s@db/runs",
            "tracking.uri=postgresql+psycopg2://ann:***@db/runs",
        ),
        ("'https://ghp_abcdef@host' and http://a:b@c", "'https://***@host' and http://a:***@c"),
        ("http://:hunter2@host", "http://:***@host"),
        ("mysql://ann:@db", "mysql://ann:***@db"),
        ("http://host/x?user=ann&password=hunter2&y=1", "http://host/x?user=ann&password=***&y=1"),
        (
            "https://b.s3/x?X-Amz-Credential=AK%2F1&X-Amz-Signature=abc",
            "https://b.s3/x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://a.blob/x?sv=1&sig=a%2Fb", "https://a.blob/x?sv=1&sig=***"),
        ("{'Authorization': 'Bearer abc.def'}", "{'Authorization': 'Bearer ***'}"),
        ('{"a": "http://host:5000/", "b": "ann@host"}', '{"a": "http://host:5000/", "b": "ann@host"}'),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("models:/cat@champion, ann@example.org, seed=3", "models:/cat@champion, ann@example.org, seed=3"),
        ("http://127.0.0.1:5000/#/experiments/1?a=b", "http://127.0.0.1:5000/#/experiments/1?a=b"),
    ],
)
def test_addresses(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize(
    "name",
    [
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_CONNECTION_STRING_SECRET",
        "HF_TOKEN",
        "PGPASSWORD",
        "DB_PASSWD",
        "OPENAI_API_KEY",
        "MY_KEY",
        "my_api_key",
        "WANDB_APIKEY",
    ],
)
def test_variables_that_are_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "correct horse/9")
    assert redacted("x: correct horse/9, correct%20horse%2F9.") == "x: ***, ***."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_EXPERIMENT_NAME", "ordinary"),
        ("KEYBOARD", "ordinary"),
        ("MY_KEY", "short"),
        ("A_TOKEN", "1"),
        ("HOME", "ordinary"),
    ],
)
def test_variables_that_are_not(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"an {value} text") == f"an {value} text"


def test_passwords_within_any_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:s3cret%21x@db/runs")
    assert redacted("it was s3cret!x or s3cret%21x") == "it was *** or ***"


def test_a_password_of_any_letters_is_known_once_its_address_was_seen_alone() -> None:
    remember(['tracking.uri=http://ann:it\'s "odd" @x@host'])
    assert redacted("""{"it's \\"odd\\" @x"} it's "odd" @x!""") == """{"it's \\"odd\\" @x"} ***!"""


def test_a_part_of_a_password_that_a_library_took_for_a_host() -> None:
    remember(["tracking.uri='http://ann:sixsix/seven77@host'"])
    assert redacted("'ann:sixsix' is not a valid host; seven77") == "'ann:***' is not a valid host; ***"


def test_everything_within_settings() -> None:
    settings = {
        "uri": "http://a:bcdefg@h",
        "n": 3,
        "list": ["http://a:bcdefg@h", None],
        "http://a:bcdefg@h": (1.5,),
    }
    assert redacted_values(settings) == {
        "uri": "http://a:***@h",
        "n": 3,
        "list": ["http://a:***@h", None],
        "http://a:***@h": (1.5,),
    }


@pytest.mark.fault(
    "misuse: a token in a setting that would be written down as it is",
    "refused by the setting's key and the variable's name, the value not shown",
)
def test_settings_that_hold_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2-hunter2")
    settings = Settings(
        data=DataSettings(path="/nowhere/hunter2-hunter2"),
        schedule={"hunter2-hunter2": StageSettings(epochs=77)},
        tracking=TrackingSettings(experiment="exp-hunter2-hunter2", run_name="at http://ann:odd@host"),
    )
    mistakes = secrets_in_settings(settings)
    rest = "and would be written down as it is; leave it out (only tracking.uri and search.storage may hold a password)"
    variable = "this holds the value of the environment variable MY_TOKEN"
    assert f"tracking.experiment=exp-***: {variable}, {rest}" in mistakes
    assert f"data.path=/nowhere/***: {variable}, {rest}" in mistakes
    assert f"schedule.***: {variable}, {rest}" in mistakes
    assert f"tracking.run_name=at http://ann:***@host: this holds a password, {rest}" in mistakes
    assert len(mistakes) == 4


def test_settings_that_may_hold_what_looks_like_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    # The last two are words of the program that somebody has chosen as passwords.
    for name, value in {
        "MY_TOKEN": "hunter2-hunter2",
        "A_PASSWORD": "bnadapt",
        "B_PASSWORD": "folder",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings(
        data=DataSettings(source="folder", path="/home/ann/images"),
        tracking=TrackingSettings(uri="http://ann:hunter2-hunter2@host"),
    )
    settings.search.storage = "postgresql://ann:hunter2-hunter2@host/trials"
    assert secrets_in_settings(settings) == []


@pytest.mark.fault(
    "attack: any password in an address",
    "replaced by ***",
)
@given(
    st.text(
        st.characters(categories=["L", "N"], include_characters="!$%&()*+,-.;<=>[]^_`{|}~:/?#@"), min_size=6
    ),
    st.text(st.characters(categories=["L"]), max_size=5),
)
def test_no_password_survives(password: str, around: str) -> None:
    address = f"http://user:{password}@host"
    assert redacted(f"{around} {address} {around}") == f"{around} http://user:***@host {around}"


PROGRAM = """
import logging, os, sys
os.environ["MY_TOKEN"] = "hunter2-hunter2"
from bnadapt.secrets import hide_in_output
logging.basicConfig(filename="log.txt", level=logging.INFO)
hide_in_output()
hide_in_output()
print("out", os.environ["MY_TOKEN"], flush=True)
sys.stdout.writelines(["line hunter2-hunter2"])
sys.stderr.write("error hunter2-hunter2")
logging.info("logged %s", "hunter2-hunter2")
logging.info("%d of", "wrong")
try:
    raise ValueError("hunter2-hunter2")
except ValueError:
    logging.info("failed", exc_info=True)
raise SystemError("hunter2-hunter2")
"""


@pytest.mark.fault(
    "attack: a token in output, logs and tracebacks of a process",
    "replaced by ***",
)
def test_what_a_process_prints_and_logs(tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    logged = (tmp_path / "log.txt").read_text()
    assert "hunter2" not in done.stdout + done.stderr.replace('raise SystemError("hunter2', "") + logged
    assert "out ***" in done.stdout
    assert "line ***" in done.stdout
    assert "error ***" in done.stderr
    assert "SystemError: ***" in done.stderr
    assert "logged ***" in logged
    assert "ValueError: ***" in logged
