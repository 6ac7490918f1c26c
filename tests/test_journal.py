"""The journal of a run: found again, held by one process, never believed where it is broken."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bnadapt.errors import StageError
from bnadapt.journal import Identity, Journal, Journals, journals

IDENTITY = Identity(store="s", keys={"baseline": "a", "insert": "b", "adapt": "c"}, rest="r")


def begin(known: Journals, run_id: str, identity: Identity = IDENTITY, command: str = "bnadapt") -> Journal:
    return known.begin(
        run_id, identity, run_directory=known.directory / "out", command=[command], settings={"seed": 0}
    )


def entry(directory: Path, key: str) -> dict[str, Any]:
    network = directory / f"{key}.keras"
    network.write_text("")
    return {"key": key, "network": str(network)}


def test_a_run_that_does_the_same_is_found_with_what_has_ended(tmp_path: Path) -> None:
    with journals(tmp_path) as known:
        begin(known, "one").end_stage("baseline", entry(tmp_path, "a"))
    with journals(tmp_path) as known:
        found = known.find(IDENTITY)
        assert found is not None
        assert found.run_id == "one"
        assert list(found.ended) == ["baseline"]
        assert found.outcome is None
        assert found.run_directory == tmp_path / "out"


@pytest.mark.parametrize(
    "other",
    [
        Identity("s2", IDENTITY.keys, "r"),
        Identity("s", {**IDENTITY.keys, "adapt": "d"}, "r"),
        Identity("s", IDENTITY.keys, "r2"),
    ],
)
def test_a_run_that_does_something_else_is_not(other: Identity, tmp_path: Path) -> None:
    with journals(tmp_path) as known:
        begin(known, "one", other)
        assert known.find(IDENTITY) is None


def test_the_newest_of_several_counts(tmp_path: Path) -> None:
    with journals(tmp_path) as known:
        begin(known, "one")
        begin(known, "two")
    with journals(tmp_path) as known:
        found = known.find(IDENTITY)
        assert found is not None
        assert found.run_id == "two"


def test_an_ended_run_is_found_although_another_process_reads_it_too(tmp_path: Path) -> None:
    with journals(tmp_path) as known, journals(tmp_path) as others:
        begin(known, "one").finish({"sentences": ["It helped."]})
        found = others.find(IDENTITY)
        assert found is not None
        assert found.outcome == {"sentences": ["It helped."]}


@pytest.mark.fault(
    "process: two processes going on with one run",
    "the second one is refused",
)
def test_a_run_in_progress_elsewhere_is_refused(tmp_path: Path) -> None:
    with journals(tmp_path) as known, journals(tmp_path) as others:
        begin(known, "one")
        with pytest.raises(StageError, match="run one is in progress in another process; wait for its end"):
            others.find(IDENTITY)
        with pytest.raises(StageError, match="run one is in progress"):
            others.named("one")


@pytest.mark.fault(
    "process: SIGKILL of the process that holds a run's lock",
    "the lock ends with it, the run can be gone on with",
)
def test_a_run_whose_process_was_killed_is_free(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from bnadapt.journal import *\n"
        "known = Journals(Path(sys.argv[1]))\n"
        "known.begin('one', Identity('s', {}, 'r'), run_directory=Path('out'), command=['bnadapt'], settings={})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    with journals(tmp_path) as known:
        assert known.named("one").run_id == "one"


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with journals(tmp_path) as known:
        begin(known, "one", command="bnadapt seed=3")
        with pytest.raises(StageError, match=r"resume=x7: .* has no run of this id to go on with") as caught:
            known.named("x7")
        assert "one  bnadapt seed=3" in str(caught.value)
        for name in ("../one", "one/", ""):
            with pytest.raises(StageError, match="has no run of this id"):
                known.named(name)


def test_what_is_the_same_in_another_run_ends_at_the_first_difference(tmp_path: Path) -> None:
    other = Identity("s", {"baseline": "a", "insert": "x", "adapt": "c"}, "r2")
    with journals(tmp_path) as known:
        first, second = begin(known, "one"), begin(known, "two")
        first.end_stage("baseline", entry(tmp_path, "a"))
        for name, key in IDENTITY.keys.items():
            second.end_stage(name, entry(tmp_path, key))
        found = known.reusable(other)
        assert found is not None
        assert found[1] == ["baseline"]
        found = known.reusable(IDENTITY)
        assert found is not None
        assert (found[0].run_id, found[1]) == ("two", ["baseline", "insert", "adapt"])
        assert known.reusable(Identity("elsewhere", IDENTITY.keys, "r")) is None
        (tmp_path / "b.keras").unlink()
        found = known.reusable(IDENTITY)
        assert found is not None
        assert found[1] == ["baseline"]


def test_the_state_in_progress_goes_when_its_stage_has_ended(tmp_path: Path) -> None:
    with journals(tmp_path) as known:
        journal = begin(known, "one")
        journal.fits.mkdir()
        (journal.fits / "adapt.checkpoint").write_text("")
        journal.end_stage("adapt", entry(tmp_path, "c"))
        assert not journal.fits.exists()


@pytest.mark.fault(
    "disk: a damaged journal of a run",
    "passed over with a warning",
)
@pytest.mark.parametrize(
    "broken", ["", "{", "[]", "{}", '{"run_id": 1}', "[" * 100_000, '{"run_id": "x", "identity": 3}']
)
def test_a_broken_journal_is_passed_over_with_a_warning(
    broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "journal.json").write_text(broken)
    with journals(tmp_path) as known:
        begin(known, "one")
    with journals(tmp_path) as known:
        found = known.find(IDENTITY)
        assert found is not None
        assert found.run_id == "one"
    assert "is no journal of a run and is passed over" in caplog.text


def test_numbers_survive_to_the_last_bit(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, float("nan"), float("inf"), 2.0**-1074]
    with journals(tmp_path) as known:
        begin(known, "one").end_stage("baseline", entry(tmp_path, "a") | {"history": values})
    again = json.loads((tmp_path / "one" / "journal.json").read_text())["ended"]["baseline"]["history"]
    assert list(map(repr, again)) == list(map(repr, values))


def test_an_ended_run_whose_report_is_gone_is_not_found(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("")
    with journals(tmp_path) as known:
        begin(known, "one").finish({"sentences": [], "report": str(report)})
        assert known.find(IDENTITY) is not None
        report.unlink()
        assert known.find(IDENTITY) is None


def test_a_stage_that_has_to_be_done_again_takes_those_after_it_along(tmp_path: Path) -> None:
    with journals(tmp_path) as known:
        journal = begin(known, "one")
        for name, key in IDENTITY.keys.items():
            journal.end_stage(name, entry(tmp_path, key))
        assert journal.forget("insert") == ["insert", "adapt"]
        assert list(known.look_up("one").ended) == ["baseline"]
        assert known.has("one")
        assert not known.has("two")
