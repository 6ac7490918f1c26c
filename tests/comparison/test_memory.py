"""What arms left is kept to the last bit, and found again by what it depends on and by nothing else."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnadapt.comparison.arms import repetitions, settings_of
from bnadapt.comparison.memory import Keys, Memory, identity_of, look_back, others
from bnadapt.comparison.plain import plain_result, plain_scores, result_from, scores_from
from bnadapt.config import Settings, TrackingSettings
from bnadapt.errors import StageError
from bnadapt.evaluation.arms import ArmResult, RateTried
from bnadapt.evaluation.results import Epoch, Scores
from bnadapt.journal import Identity, Journal, Journals, journals
from bnadapt.setting_keys import with_values
from bnadapt.start import Start, prepare
from bnadapt.tracking.store import Tracker
from tests.test_conf import compose

NUMBERS = st.floats(allow_nan=False) | st.just(math.nan)  # the one NaN that there is in JSON
IDENTITY = Identity("store", {}, "rest")


@st.composite
def scores(draw: st.DrawFn) -> Scores:
    images, classes = draw(st.integers(1, 20)), draw(st.integers(1, 12))
    predicted = draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    return Scores(
        *(draw(NUMBERS) for _ in range(4)),
        recall=np.array(draw(st.lists(NUMBERS, min_size=classes, max_size=classes)), "float64"),
        correct=np.array(draw(st.lists(st.booleans(), min_size=images, max_size=images)), bool),
        predicted=np.array(predicted, "int64"),
    )


def bits(found: Scores) -> list[tuple[str, bytes]]:
    return [(np.asarray(each).dtype.str, np.asarray(each).tobytes()) for each in astuple(found)]


@given(scores())
def test_scores_come_back_to_the_last_bit(found: Scores) -> None:
    again = scores_from(json.loads(json.dumps(plain_scores(found))))
    assert bits(again) == bits(found)


def a_result() -> ArmResult:
    return ArmResult(
        arm="bn_only",
        seed=1,
        labels=None,
        baseline="ab" * 32,
        learning_rate=0.1 + 0.2,
        rates=(RateTried(0.1, 1 / 3, 2.5), RateTried(0.3, math.inf, -math.inf)),
        trainable=96,
        steps=20,
        seconds=1.25,
        kept="adapt",
        history=(Epoch(1, 0.1, 0.2, 0.3, 0.4, 1e-4, 0.5), Epoch(2, 0.7, 0.1, 1 / 7, 0.2, 0.0, 0.1)),
        looks=(10, 20),
        validation=Scores(
            0.5, 1 / 3, 0.1, 0.2, np.array([0.25, 0.75]), np.array([True, False]), np.array([1, 0])
        ),
    )


def test_a_result_comes_back_as_it_was() -> None:
    result = a_result()
    plain = json.loads(json.dumps(plain_result(result)))
    again = result_from(plain, arm="bn_only", seed=1, labels=None)
    assert bits(again.validation) == bits(result.validation)
    assert replace(again, validation=result.validation) == result


def a_journal(known: Journals, run_id: str, directory: Path) -> Journal:
    return known.begin(run_id, IDENTITY, run_directory=directory, command=["bnadapt"], settings={})


def test_what_ended_is_found_by_what_it_depends_on_and_whole_or_not_at_all(tmp_path: Path) -> None:
    network = tmp_path / "arm_s0_all.keras"
    network.write_bytes(b"weights")
    with journals(tmp_path / "checkpoints") as known:
        memory = Memory(a_journal(known, "a", tmp_path))
        memory.keep("arm_s0_all_rate0", "k0", {"seconds": 1.0}, network, 5.0)
        memory.forget(["arm_s0_all_rate0"])
        memory.keep("arm_s0_all", "k", {"weights": "w"}, network, 10.0)
        memory.keep("wild_s0_all", "l", {"left_out": "inf"}, None, 12.5)
    with journals(tmp_path / "checkpoints") as known:
        again = Memory(known.named("a"))
        assert again.seconds_before == 12.5
        found = again.find("arm_s0_all", "k")
        assert found is not None
        assert (found.origin, found.network, found.content["weights"]) == (None, network, "w")
        left_out = again.find("wild_s0_all", "l")
        assert left_out is not None
        assert left_out.content["left_out"] == "inf"
        assert again.find("arm_s0_all_rate0", "k0") is None
        assert again.find("arm_s0_all", "other") is None
        network.write_bytes(b"Weights")
        assert again.find("arm_s0_all", "k") is None
        network.unlink()
        assert again.find("arm_s0_all", "k") is None


def test_another_comparison_is_looked_at_where_it_has_not_ended_and_all_is_asked_for(tmp_path: Path) -> None:
    network = tmp_path / "first.keras"
    network.write_bytes(b"weights")
    everything, nothing = Settings(resume="true"), Settings(resume="b")
    with journals(tmp_path / "checkpoints") as known:
        first = a_journal(known, "a", tmp_path)
        Memory(first).keep("arm_s0_all", "k", {"weights": "w"}, network, 10.0)
        own = a_journal(known, "b", tmp_path)
        assert [each.run_id for each in others(known, everything, IDENTITY, "b")] == ["a"]
        assert others(known, nothing, IDENTITY, "b") == []
        assert others(known, everything, replace(IDENTITY, store="elsewhere"), "b") == []
        memory = Memory(own, others(known, everything, IDENTITY, "b"))
        assert memory.seconds_before == 0  # the other's time is the other's
        found = memory.find("renamed_s0_all", "k")
        assert found is not None
        assert found.origin == "a"
        first.finish({"sentences": []})
        assert others(known, everything, IDENTITY, "b") == []


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(TrackingSettings(), tmp_path_factory.mktemp("store"))


@cache  # nobody may change them
def compared(*words: str) -> Settings:
    return compose("experiment=compare", "data@baseline_data=digits", "data.labels_per_class=5", *words)


@pytest.fixture(scope="module")
def start(tracker: Tracker) -> Start:
    return started(compared(), tracker)


def started(settings: Settings, tracker: Tracker) -> Start:
    return prepare(next(repetitions(settings)).settings, tracker)


def keys_of(settings: Settings, start: Start, code: str = "code") -> dict[str, str]:
    """Keys of the baseline and of three arms of the first repetition."""
    keys, first = Keys(start, code), next(repetitions(settings)).settings
    arms = {name: settings.comparison.arms[name] for name in ("further_training", "statistics", "bn_only")}
    return {"baseline": keys.of_baseline(first)} | {
        name: keys.of(settings_of(first, arm, 0.01)) for name, arm in arms.items()
    }


@pytest.mark.parametrize(
    ("key", "value", "changed"),
    [
        ("comparison.steps", 70, {"further_training", "bn_only"}),
        ("comparison.looks", 3, {"further_training", "bn_only"}),
        ("comparison.optimizer", "sgd", {"further_training", "bn_only"}),
        ("comparison.only", ["bn_only"], set()),
        ("comparison.seeds", [0, 4], set()),
        ("comparison.bootstrap", 5000, set()),
        ("insertion.epsilon", 1e-3, {"statistics", "bn_only"}),
        ("placement.exclude", ["dense"], {"statistics", "bn_only"}),
        ("comparison.arms.bn_only.schedule.adapt.decay", "none", {"bn_only"}),
        ("comparison.arms.bn_only.description", "another", set()),
        ("seed", 5, {"baseline", "further_training", "statistics", "bn_only"}),
        ("data.batch_size", 32, {"baseline", "further_training", "statistics", "bn_only"}),
        ("insertion.samples", 100, {"baseline", "further_training", "statistics", "bn_only"}),
    ],
)
def test_what_a_setting_changes_is_done_again_and_nothing_else(
    key: str, value: object, changed: set[str], start: Start
) -> None:
    before, after = keys_of(compared(), start), keys_of(with_values(compared(), {key: value}), start)
    assert {name for name in before if before[name] != after[name]} == changed


def test_labels_change_the_arms_and_not_the_baseline_that_never_saw_them(
    start: Start, tracker: Tracker
) -> None:
    more = compared("data.labels_per_class=7")
    before, after = keys_of(compared(), start), keys_of(more, started(more, tracker))
    assert {name for name in before if before[name] == after[name]} == {"baseline"}
    own = compose("experiment=compare", "data.labels_per_class=5")
    fewer = replace(own, data=replace(own.data, labels_per_class=3))
    found = [keys_of(each, started(each, tracker))["baseline"] for each in (own, fewer)]
    assert found[0] != found[1]


def test_other_code_and_another_first_network_change_everything(start: Start) -> None:
    before = keys_of(compared(), start)
    assert not set(before.values()) & set(keys_of(compared(), start, code="edited").values())
    weight = start.network.weights[0]
    as_it_was = weight.numpy()
    weight.assign(as_it_was + 1)
    assert not set(before.values()) & set(keys_of(compared(), start).values())
    weight.assign(as_it_was)
    assert keys_of(compared(), start) == before


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda settings: replace(settings, progress="none", resume="true"), True),
        (lambda settings: with_values(settings, {"tracking.system_metrics": False}), True),
        (lambda settings: with_values(settings, {"comparison.only": ["bn_only"]}), False),
        (lambda settings: with_values(settings, {"comparison.bootstrap": 5000}), False),
        (lambda settings: with_values(settings, {"evaluation.batch_size": 17}), False),
    ],
)
def test_a_comparison_is_the_same_where_nothing_changes_its_results(
    change: Callable[[Settings], Settings], same: bool, start: Start, tracker: Tracker
) -> None:
    settings = compared()
    assert (identity_of(settings, start, tracker) == identity_of(change(settings), start, tracker)) == same


def test_a_run_with_other_settings_is_refused_with_the_difference(
    start: Start, tracker: Tracker, tmp_path: Path
) -> None:
    settings = compared()
    with journals(tmp_path / "checkpoints") as known:
        known.begin(
            "a1",
            identity_of(settings, start, tracker),
            run_directory=tmp_path,
            command=["bnadapt"],
            settings=json.loads(json.dumps(settings, default=vars)),
        )
    changed = with_values(settings, {"comparison.steps": 70, "comparison.seeds": [0]})
    with (
        journals(tmp_path / "checkpoints") as known,
        pytest.raises(
            StageError,
            match=re.escape(
                "resume=a1: that run cannot be gone on with like this: comparison.seeds was [0, 1, 2], is [0]; "
                "comparison.steps was 300, is 70. bnadapt resume=a1 alone takes its own settings; resume=true takes "
                "over whatever arms are still the same"
            ),
        ),
    ):
        look_back(known, replace(changed, resume="a1"), identity_of(changed, start, tracker), tracker)
    other = with_values(settings, {"evaluation.batch_size": 17})
    with (
        journals(tmp_path / "checkpoints") as known,
        pytest.raises(StageError, match=r"evaluation\.batch_size was 256, is 17"),
    ):
        look_back(known, replace(other, resume="a1"), identity_of(other, start, tracker), tracker)
    with journals(tmp_path / "checkpoints") as known:
        found = look_back(
            known, replace(settings, resume="a1"), identity_of(settings, start, tracker), tracker
        )
        assert found.journal is not None
        assert found.journal.run_id == "a1"
