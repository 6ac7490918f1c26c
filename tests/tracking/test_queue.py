"""What is written down before it is sent, and the steps at which it is recorded."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnadapt.files import write_text
from bnadapt.tracking.points import Steps
from bnadapt.tracking.queue import Queue


@pytest.mark.fault(
    "store: what waits cut off at any byte",
    "read as far as it goes",
)
@given(st.lists(st.booleans(), max_size=12), st.floats(0, 1))
def test_a_journal_that_breaks_off_anywhere_is_read_as_far_as_it_goes(
    tmp_path_factory: pytest.TempPathFactory, ends: list[bool], share: float
) -> None:
    folder = tmp_path_factory.mktemp("queue")
    queue = Queue(folder, "7")
    for number, end in enumerate(ends):
        entry = queue.add("start", f"run {number}", {"name": "ü"})
        if end:
            queue.done(entry, {f"run {number}": f"id {number}"})
    queue.close()
    whole = (folder / "journal.jsonl").read_bytes()
    (folder / "journal.jsonl").write_bytes(whole[: int(share * len(whole))])
    lines = whole[: int(share * len(whole))].splitlines(keepends=True)
    kept = [json.loads(line) for line in lines if line.endswith(b"}\n")]
    added = {each["number"]: each for each in kept if "number" in each}
    gone = {each["done"] for each in kept if "done" in each}

    read = Queue(folder, "7")
    # A last line may be whole but for its end.
    assert set(read.pending) - (added.keys() - gone) <= {len(added) + 1}
    assert all(read.ids[f"run {number - 1}"] == f"id {number - 1}" for number in gone)
    further = read.add("end", folder.name, {})
    read.close()
    assert further.number not in added
    assert further.number in Queue(folder).pending


@pytest.mark.fault(
    "disk: power lost just after results were handed in",
    "they were flushed to the disk, the files before what says that they are there",
)
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not say what is flushed")
def test_what_is_handed_in_is_on_the_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    flush = os.fsync

    def watched(descriptor: int) -> None:
        flush(descriptor)
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr("os.fsync", watched)
    queue = Queue(tmp_path, "7")
    assert flushed == ["journal.jsonl", tmp_path.name]
    flushed.clear()
    write_text(queue.place("a.txt"), "a")
    entry = queue.add("file", "run", {"path": "files/1/a.txt", "folder": ""})
    assert flushed[-1] == "journal.jsonl"
    assert any(name.endswith(".txt") for name in flushed[:-1])
    flushed.clear()
    queue.done(entry)
    assert flushed == ["journal.jsonl"]  # before its file is removed
    entry = queue.add("metrics", "run", {"metrics": []})
    queue.done(entry)
    assert flushed == ["journal.jsonl"] * 2
    queue.close()


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), max_size=20), st.integers(0, 20))
def test_no_two_values_of_a_key_get_one_step_and_told_again_they_get_the_same(
    told: list[tuple[str, int]], cut: int
) -> None:
    first = Steps()
    places = [(key, first.place(key, step)) for key, step in told]
    assert len(set(places)) == len(places)
    again = Steps(dict.fromkeys(places[:cut], (0.0, 0)))
    assert [(key, again.place(key, step)) for key, step in told] == places
    for (key, step), (_, place) in zip(told, places, strict=True):
        assert place >= step, key
