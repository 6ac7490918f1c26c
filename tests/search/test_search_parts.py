"""What a trial is worth, whose a study is, and what is said of a search."""

import math
import shlex
from io import StringIO
from pathlib import Path

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bnadapt.cli import configuration_directory, settings_from
from bnadapt.config import Settings, StageSettings
from bnadapt.errors import SettingsError
from bnadapt.search.outcome import (
    Material,
    command_for_more,
    command_with,
    importances,
    line,
    print_outcome,
)
from bnadapt.search.space import as_drawn, standing
from bnadapt.search.study import Tried, best_of, folder_of, identity, opened, storage_url, study_name
from bnadapt.search.trial import PER_STAGE, objective, pruner
from tests.searches import ADAPT, FINETUNE, in_memory, small, with_range

# What a trial is worth.


@given(
    st.integers(1, 10_000),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.floats(0, 1e6),
    st.floats(0, 1e6),
)
def test_no_loss_outweighs_an_image_and_the_lower_loss_decides_among_equals(
    images: int, right: int, other: int, loss: float, other_loss: float
) -> None:
    right, other = right % (images + 1), other % (images + 1)
    one, two = objective(right / images, loss, images), objective(other / images, other_loss, images)
    if right != other:
        assert (one > two) == (right > other)
    elif abs(loss - other_loss) > 1e-6 * (1 + loss) * (1 + other_loss):
        assert (one > two) == (loss < other_loss)
    assert objective(right / images, math.nan, images) < one or loss > 1e5
    assert right / images - 0.5 / images <= one <= right / images


@pytest.mark.parametrize(
    ("stages", "first"), [({"adapt": 4, "finetune": 4}, PER_STAGE + 1), ({"only": 9}, PER_STAGE // 3)]
)
def test_nothing_is_pruned_in_the_first_of_several_stages(stages: dict[str, int], first: int) -> None:
    settings = small()
    settings.schedule = {name: StageSettings(epochs=epochs) for name, epochs in stages.items()}
    study = optuna.create_study(direction="maximize", pruner=pruner(settings))
    marks = [1, first - 1, first, 2 * PER_STAGE]
    for _ in range(5):
        good = study.ask()
        for mark in marks:
            good.report(0.9, mark)
        study.tell(good, 0.9)
    bad = study.ask()
    pruned = []
    for mark in marks:
        bad.report(0.1, mark)
        pruned.append(bad.should_prune())
    assert pruned == [False, False, True, True]
    settings.search.pruning = False
    assert isinstance(pruner(settings), optuna.pruners.NopPruner)


def test_the_first_of_equal_trials_is_the_best() -> None:
    trials = [
        Tried(1, {}, "failed", error="x"),
        Tried(2, {}, "pruned", accuracy=0.99),
        Tried(3, {}, "complete", 0.9, 0.1, "adapt", score=0.9),
        Tried(4, {}, "complete", 0.9, 0.1, "adapt", score=0.9),
        Tried(5, {}, "complete", 0.8, 0.1, "adapt", score=0.8),
    ]
    best = best_of(trials)
    assert best is not None
    assert best.place == 3
    assert best_of(trials[:2]) is None


# The study.


def test_the_storage_lies_below_the_working_directory_and_the_files_beside_it(tmp_path: Path) -> None:
    url = storage_url("sqlite:///a/search.db", tmp_path)
    assert url == f"sqlite:///{tmp_path}/a/search.db"
    assert folder_of(url, "my study/1", tmp_path) == tmp_path / "a" / "search" / "my_study_1"
    assert storage_url("sqlite:////tmp/x.db", tmp_path) == "sqlite:////tmp/x.db"
    server = "postgresql://host/db"
    assert storage_url(server, tmp_path) == server
    assert folder_of(server, "s", tmp_path) == tmp_path / "search" / "s"


def test_the_name_of_a_study_tells_searches_apart() -> None:
    settings = small()
    name = study_name(settings, {"a": "1"}, "usps contrast")
    assert name.startswith("usps_contrast-mlp-")
    assert name != study_name(settings, {"a": "2"}, "usps contrast")
    assert study_name(small(study="mine"), {"a": "2"}, "usps") == "mine"


def test_two_processes_do_not_search_in_one_study(tmp_path: Path) -> None:
    url = storage_url("sqlite:///search.db", tmp_path)
    with opened(small(), "one", {"a": "1"}, url, tmp_path / "one"):
        with pytest.raises(SettingsError, match=r"search\.study=one: another process is searching in it"):  # noqa: SIM117
            with opened(small(), "one", {"a": "1"}, url, tmp_path / "one"):
                pass
        with opened(small(), "two", {"a": "1"}, url, tmp_path / "two"):
            pass
    with opened(small(), "one", {"a": "1"}, url, tmp_path / "one"):
        pass


def test_a_study_of_other_settings_is_refused(tmp_path: Path) -> None:
    url = storage_url("sqlite:///search.db", tmp_path)
    settings = small()
    with opened(settings, "one", identity(settings, {"data (SHA-256)": "a"}), url, tmp_path / "one"):
        pass
    settings.search.trials = 99  # more of them is no other search
    with opened(settings, "one", identity(settings, {"data (SHA-256)": "a"}), url, tmp_path / "one"):
        pass
    settings.schedule["finetune"].epochs = 4
    settings.search.space["finetune_rate"].high = 1.0
    with (
        pytest.raises(SettingsError) as error,
        opened(settings, "one", identity(settings, {"data (SHA-256)": "b"}), url, tmp_path / "one"),
    ):
        pass
    text = str(error.value)
    assert text.startswith(
        "search.study=one: its trials were made with other settings and cannot be compared"
    )
    assert "data (SHA-256) was a, is b; schedule.finetune.epochs was 2, is 4; " in text
    assert "search.space.finetune_rate was {'key': 'schedule.finetune.learning_rate', 'low': 1e-06" in text


def test_a_storage_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "search.db"
    file.write_text("this is no database, however long the text may be")
    settings = small(storage="sqlite:///search.db")
    with (
        pytest.raises(
            SettingsError, match=r"search.storage=sqlite:///search.db: the storage cannot be used: .*not a"
        ),
        opened(settings, "one", {}, storage_url("sqlite:///search.db", tmp_path), tmp_path / "one"),
    ):
        pass
    # Optuna ends its sentence where no driver is installed.
    with (
        pytest.raises(SettingsError, match=r"install appropriate one\. Name a file: search.storage=sqlite"),
        opened(settings, "one", {}, "oracle+cx_oracle://host/base", tmp_path / "two"),
    ):
        pass


# What is said.


def test_the_command_for_the_best_settings_has_no_search_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BNADAPT_COMMAND", raising=False)
    typed = [
        "bnadapt", "--config-dir", "mine", "experiment=search", "data=usps", "search.trials=30",
        "search.space.adapt_rate.high=0.3", "~search.space.policy", f"{ADAPT}=0.5", "+search=usual", "seed=1",
    ]  # fmt: skip
    values = {ADAPT: 0.0031, "schedule.adapt.train": ["upper 50%"], "insertion.momentum": None}
    assert command_with(typed, values) == (
        "bnadapt --config-dir mine data=usps seed=1 schedule.adapt.learning_rate=0.0031 "
        "'schedule.adapt.train=['\"'\"'upper 50%'\"'\"']' insertion.momentum=null"
    )
    assert command_for_more(["bnadapt", "experiment=search", "search.trials=5"], 10) == (
        "bnadapt experiment=search search.trials=10"
    )


def test_of_an_experiment_of_ones_own_the_search_alone_is_taken_out(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /search: usual\nmodel:\n  widths: [8]\n"
    )
    place = f"hydra.searchpath=[file://{tmp_path}]"
    typed = ["bnadapt", place, "experiment=mine", "~search.space.policy", "search.trials=3"]
    ConfigStore.instance().store(name="schema", node=Settings)
    with initialize_config_dir(str(configuration_directory()), version_base="1.3"):
        searched = settings_from(compose("config", overrides=typed[1:]))
        assert list(searched.search.space) == [
            "adapt_rate",
            "finetune_rate",
            "momentum",
            "placement",
            "input",
        ]
        line = command_with(typed, {ADAPT: 0.5, "placement.on_input": True}, searched.search.space)
        settings = settings_from(compose("config", overrides=shlex.split(line)[1:]))
    assert settings.search.space == {}
    assert settings.model.widths == [8]
    assert (settings.schedule["adapt"].learning_rate, settings.placement.on_input) == (0.5, True)


def test_a_trial_is_told_in_a_line() -> None:
    settings = small(trials=20)
    values = {ADAPT: 10.0, FINETUNE: 3.2e-05}
    best = Tried(3, values, "complete", 0.951, 0.2, "adapt", 4.25, score=0.95)
    assert line(best, best, settings) == (
        "trial  3 of 20: adapt_rate 10.0, finetune_rate 3.2e-05: 95.10 % after adapt; best 95.10 % (trial 3); 4.2 s"
    )
    failed = Tried(12, values, "failed", error="the loss is nan\nlong story")
    assert "trial 12 of 20: " in line(failed, None, settings)
    assert ": failed: the loss is nan; 0.0 s" in line(failed, None, settings)
    pruned = Tried(4, values, "pruned", 0.4)
    assert ": 40.00 %, stopped early; best 95.10 % (trial 3)" in line(pruned, best, settings)


@pytest.mark.parametrize(
    ("accuracy", "loss", "text"),
    [
        (0.90, 0.5, "the settings as they stand: 90.00 %, 2.00 points less, 2 images"),
        (0.91, 0.5, "the settings as they stand: 91.00 %, 1.00 points less, 1 image"),
        (0.92, 0.5, "the settings as they stand: 92.00 %, as many; the lower loss decided"),
        (
            0.92,
            0.1,
            "the settings as they stand: 92.00 %, as many: no trial did better, leave them as they stand",
        ),
        (
            0.93,
            0.5,
            "the settings as they stand: 93.00 %, 1.00 points more, 1 image: no trial did better, leave them as they "
            "stand",
        ),
    ],
)
def test_settings_outside_the_space_may_be_better_than_all_trials(
    accuracy: float, loss: float, text: str
) -> None:
    """With momentum left to the schedule, as it stands, they are no trial of the usual space."""
    settings = with_range(key="insertion.momentum", low=0.5, high=0.9)
    best = Tried(
        1, {"insertion.momentum": 0.9}, "complete", 0.92, 0.2, "adapt", score=objective(0.92, 0.2, 100)
    )
    before = Tried(
        0, {"insertion.momentum": None}, "complete", accuracy, loss, "adapt",
        score=objective(accuracy, loss, 100),
    )  # fmt: skip
    material = Material(
        settings, [best], best, before, {"insertion.momentum": None}, None, 100, "bnadapt", "bnadapt"
    )
    written = StringIO()
    print_outcome(Console(file=written, width=200, markup=False, highlight=False), material, in_memory())
    assert f"  {text}\n" in written.getvalue()
    assert "best by validation: trial 1 of 1, 92.00 % of 100 images right" in written.getvalue()


def test_the_usual_space_holds_rates_momentum_placement_and_policy() -> None:
    ConfigStore.instance().store(name="schema", node=Settings)
    with initialize_config_dir(str(configuration_directory()), version_base="1.3"):
        settings = settings_from(compose("config", overrides=["experiment=search"]))
        given = settings_from(compose("config", overrides=["experiment=search", "insertion.momentum=0.9"]))
    assert set(standing(settings)) == {
        ADAPT, FINETUNE, "insertion.momentum", "placement.position", "placement.on_input", "schedule.finetune.normalize"
    }  # fmt: skip
    assert as_drawn(settings) is None  # momentum is left to the schedule
    drawn = as_drawn(given)
    assert drawn is not None
    assert drawn["momentum"] == 0.9


def test_what_matters_most_is_found_where_the_trials_are_enough() -> None:
    study = in_memory()
    for number in range(14):
        trial = study.ask()
        value = trial.suggest_float("much", 0, 1) + 0.01 * trial.suggest_float("little", 0, 1)
        study.tell(trial, value)
        if number == 8:
            assert importances(study, 0) == {}
    found = importances(study, 0)
    assert list(found) == ["much", "little"]
    assert found["much"] > 0.8
    assert sum(found.values()) == pytest.approx(1)
