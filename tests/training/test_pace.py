"""Looks at the validation images: evenly spread, the last one after the last step, in the order of the data."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnadapt.config import StageSettings
from bnadapt.training.pace import Pace, batches, pace_of
from tests.digits import digit_splits


@given(steps=st.integers(1, 2000), looks=st.integers(1, 300), steps_per_epoch=st.integers(1, 100))
def test_looks_are_even_to_within_a_step_and_end_with_the_last_one(
    steps: int, looks: int, steps_per_epoch: int
) -> None:
    pace = pace_of(StageSettings(steps=steps, looks=looks, epochs=0), steps_per_epoch)
    gaps = [after - before for before, after in pairwise((0, *pace.looks))]
    assert len(pace.looks) == min(looks, steps)
    assert pace.steps == pace.looks[-1] == steps
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@given(steps=st.integers(1, 2000), looks=st.integers(1, 300))
def test_two_parts_at_most_make_up_all_looks(steps: int, looks: int) -> None:
    pace = pace_of(StageSettings(steps=steps, looks=looks), 7)
    parts = pace.parts()
    reached = [part.done + part.steps * number for part in parts for number in range(1, part.looks + 1)]
    assert tuple(reached) == pace.looks
    assert [part.first for part in parts] == [0, *(part.looks for part in parts[:-1])]
    assert len(parts) <= 2


def test_without_steps_every_epoch_has_a_look() -> None:
    pace = pace_of(StageSettings(epochs=3), 12)
    assert pace == Pace((12, 24, 36), "epoch")
    assert [(part.first, part.looks, part.steps, part.done) for part in pace.parts()] == [(0, 3, 12, 0)]
    assert [pace.at(number) for number in (1, 3)] == ["epoch 1/3", "epoch 3/3"]


def test_steps_are_what_a_person_reads_where_steps_count() -> None:
    pace = pace_of(StageSettings(steps=300), 2)
    assert (pace.at(1), pace.at(10)) == ("step 30/300", "step 300/300")


@pytest.mark.parametrize(("first", "steps"), [(0, 7), (3, 9), (4, 4), (5, 1), (11, 6)])
def test_batches_go_on_where_others_ended_whatever_the_epoch(first: int, steps: int) -> None:
    split = digit_splits(train=90).train  # four batches of 20 and some left over
    everything = [labels.numpy() for _, labels in split.shuffled(20, seed=5, epochs=5)]
    taken = [labels.numpy() for _, labels in batches(split, 20, seed=5, first=first, steps=steps)]
    assert len(taken) == steps
    np.testing.assert_array_equal(taken, everything[first : first + steps])


@given(
    looks=st.lists(st.integers(1, 9), min_size=1, max_size=8).map(
        lambda gaps: tuple(np.cumsum(gaps).tolist())
    ),
    share=st.floats(0, 1),
)
def test_parts_can_begin_at_any_step(looks: tuple[int, ...], share: float) -> None:
    pace = Pace(looks, "step")
    done = int(share * pace.steps)
    found: list[int] = []
    for part in pace.parts(done):
        assert part.done == (found[-1] if found else done)
        assert part.first == sum(look <= part.done for look in looks)
        found += [part.done + part.steps * number for number in range(1, part.looks + 1)]
    assert found == [look for look in looks if look > done]


def test_where_a_step_is() -> None:
    epochs, steps = Pace((4, 8, 12), "epoch"), Pace((5, 9), "step")
    assert [epochs.at_step(step) for step in (1, 4, 5, 12)] == [
        "step 1 (epoch 1/3)", "step 4 (epoch 1/3)", "step 5 (epoch 2/3)", "step 12 (epoch 3/3)"
    ]  # fmt: skip
    assert steps.at_step(7) == "step 7/9"
