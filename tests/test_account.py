"""Explaining results never costs them: what fails is named, and the run ends as it would have."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image
from sklearn.datasets import load_digits

import bnadapt.account
import bnadapt.ledger
from bnadapt.artifacts import attempt
from bnadapt.config import (
    BaselineSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    Settings,
    StageSettings,
)
from bnadapt.pipeline import Outcome, run_pipeline

HOSTILE = ["<script>alert(1)<", "a|b `c` **d**\udcff", "наука &amp; 数字"]  # one of them is no UTF-8


def settings(data: DataSettings, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "data": data,
        "model": ModelSettings(widths=[8]),
        "baseline": BaselineSettings(epochs=1),
        "schedule": {"adapt": StageSettings(train=["batch_norm"], epochs=1)},
        "evaluation": EvaluationSettings(control=False),
        "progress": "none",
    }
    return Settings(**(values | changes))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Settings], Outcome]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda settings: run_pipeline(settings, tmp_path / "out", command=("bnadapt", "data=x y"))


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("no such thing")


def test_what_fails_gives_nothing_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert attempt("adding", lambda: 1 + 1) == 2
    assert not caplog.records
    with caplog.at_level(logging.INFO):
        assert attempt("the plot", broken) is None
    warning, details = caplog.records
    assert warning.getMessage() == "the plot failed, the run goes on: RuntimeError: no such thing"
    assert (warning.levelno, details.levelno) == (logging.WARNING, logging.INFO)
    assert details.exc_info is not None


def test_an_interrupt_is_no_failure() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("the plot", interrupted)


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(False, marks=pytest.mark.slow, id="parts of the report"),
        pytest.param(True, id="the whole report"),
    ],
)
def test_a_failing_explanation_costs_nothing_else(
    whole: bool,
    run: Callable[[Settings], Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if whole:
        monkeypatch.setattr(bnadapt.account, "contents", broken)
    else:
        monkeypatch.setattr(bnadapt.ledger, "diagnose", broken)
        monkeypatch.setattr(bnadapt.account, "changed_images", broken)
        monkeypatch.setattr("bnadapt.report.drawings.loss_curves", broken)
    outcome = run(settings(DataSettings(name="digits")))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert outcome.verdict is not None
    assert client.get_run(outcome.run_id).data.tags["verdict"] == outcome.verdict.answer
    assert {each.info.status for each in client.search_runs(["1"])} == {"FINISHED"}
    files = {each.path for each in client.list_artifacts(outcome.run_id)}
    assert {"stages.csv", "stages.md", "verdict.txt"} <= files
    assert (tmp_path / "out" / "best.keras").is_file()
    failed = [each.getMessage().partition(" failed, the run goes on: ") for each in caplog.records]
    names = [name for name, found, _ in failed if found]
    report, printed = tmp_path / "out" / "report.md", capsys.readouterr().out
    if whole:
        assert names == ["the report"]
        assert not report.exists()
        assert (tmp_path / "out" / "plots" / "loss.png").is_file()
        assert "plots" in files
        assert "report:" not in printed
        return
    stages = [f"the diagnosis of stage {name}" for name in ("baseline", "insert", "adapt")]
    compared = ["the comparison of images"] if outcome.verdict.best != "baseline" else []
    assert names == [*stages, *compared, "the plot plots/loss.png"]
    assert [result.diagnosis for result in outcome.results] == [None] * 3
    assert f"report: {tmp_path / 'out' / 'report.html'}" in printed
    text = report.read_text()
    assert "Missing, because it could not be drawn: Loss over the epochs of all stages." in text
    assert "plots/validation_accuracy.png" in text
    assert "plots/loss.png" not in text
    assert "accuracy with batch statistics" not in text


@pytest.mark.slow
def test_the_shift_between_two_data_sets_is_measured_where_there_are_two(
    run: Callable[[Settings], Outcome], tmp_path: Path
) -> None:
    outcome = run(
        settings(DataSettings(name="digits", shift="contrast"), baseline_data=DataSettings(name="digits"))
    )
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    stages = {each.data.tags.get("stage"): each.data.metrics for each in client.search_runs(["1"])}
    assert {label for label, metrics in stages.items() if "statistics_shift_mean" in metrics} == {"2_insert"}
    assert stages["2_insert"]["statistics_shift_largest"] >= stages["2_insert"]["statistics_shift_mean"] > 0.1
    table = Path(client.download_artifacts(outcome.run_id, "shift.csv")).read_text().splitlines()
    assert table[0] == "layer,channels,divergence,mean,deviation"
    assert len(table) == 2
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.startswith("# digits to digits contrast 3\n")
    assert "plots/statistics_shift.png" in text


def test_hostile_names_of_classes_are_shown_and_never_obeyed(
    run: Callable[[Settings], Outcome], tmp_path: Path
) -> None:
    images, labels = load_digits(n_class=3, return_X_y=True)
    for number, (image, label) in enumerate(zip(images[:240], labels[:240], strict=True)):
        folder = tmp_path / "images" / HOSTILE[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15).astype("uint8")).save(folder / f"{number}.png")
    run(settings(DataSettings(source="folder", path=str(tmp_path / "images"))))
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;" in page
    assert "наука &amp;amp; 数字" in page
    assert "bnadapt &#39;data=x y&#39;" in page


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ("before_activation", "BN before the activation"),
        ("after_activation, input", "BN after the activation and on the input"),
        ("input", "BN on the input"),
        ("none", "no BN inserted"),
    ],
)
def test_the_report_says_where_batch_normalization_was_put(placement: str, words: str) -> None:
    assert bnadapt.account._where(placement) == words
