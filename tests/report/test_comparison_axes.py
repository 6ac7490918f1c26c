"""Where axes start, and where names go: mathematics that the plots of a comparison rest on."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnadapt.report.comparison_axes import (
    accuracy_edge,
    colour,
    limits,
    longest_axis,
    lower_edge,
    roles,
    spaced,
)
from tests.report.comparison_examples import ARMS, material

shares = st.floats(0, 1)


@given(st.lists(shares, min_size=1, max_size=20), st.floats(0.01, 0.2))
def test_names_keep_their_order_and_distance(places: list[float], distance: float) -> None:
    found = spaced(places, distance)
    order = np.argsort(places, kind="stable")
    gaps = np.diff(np.array(found)[order])
    assert (gaps >= distance - 1e-9).all()
    if (len(places) - 1) * distance <= 1:
        assert min(found) >= -1e-9
        assert max(found) <= 1 + 1e-9


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12, unique=True))
def test_names_that_have_room_stay_where_they_are(steps: list[int]) -> None:
    places = [step / 20 for step in steps]
    assert spaced(places, 0.05) == pytest.approx(places)


def test_names_that_collide_move_as_little_as_they_can() -> None:
    assert spaced([0.5, 0.5, 0.9], 0.1) == pytest.approx([0.45, 0.55, 0.9])
    assert spaced([-3.0, -9.0, 0.02], 0.1) == pytest.approx([0.1, 0.0, 0.2])
    assert spaced([], 0.1) == []


@given(st.lists(shares, min_size=1, max_size=20), st.floats(0.01, 1), st.lists(shares, max_size=2), shares)
def test_an_axis_keeps_the_best_the_wanted_and_two_thirds(
    values: list[float], longest: float, shown: list[float], extra: float
) -> None:
    edge = lower_edge([*values, *shown], longest, shown)
    if edge is None:
        return
    every = [*values, *shown]
    assert edge <= max(every)
    assert all(edge <= each for each in shown)
    assert sum(each < edge for each in every) <= len(every) / 3
    assert min(every) < edge


def test_an_axis_starts_above_what_would_squeeze_the_rest() -> None:
    values = [0.1, 0.85, 0.86, 0.87]
    assert lower_edge(values, 0.2) == 0.85
    assert lower_edge(values, 0.8) is None
    assert lower_edge(values, 0.2, [0.1]) is None
    assert lower_edge([0.1, 0.87], 0.2) is None  # half of them is more than a third
    assert lower_edge([0.1, 0.2, 0.3, 0.87], 0.2) == 0.2


def test_an_axis_is_as_long_as_intervals_can_be_read_on() -> None:
    assert longest_axis([(0.0, 0.02), (0.5, 0.51), (0.5, 0.9)]) == pytest.approx(12 * 0.02)
    assert longest_axis([(0.5, 0.5)]) == longest_axis([]) == math.inf


def test_limits_leave_room_and_stay_near_the_possible() -> None:
    low, high = limits([0.2, 0.7])
    assert (low, high) == pytest.approx((0.17, 0.73))
    low, high = limits([0.0, 1.0])
    assert (low, high) == pytest.approx((-0.03, 1.03))
    low, high = limits([0.5, 0.5])
    assert low < 0.5 < high


def test_arms_have_roles_and_colours() -> None:
    comparison = material(images=500).comparisons[0]
    others = {comparison.recommended, comparison.best_in_hindsight}
    assert "recommended" in roles(comparison, comparison.recommended)
    assert "best in hindsight" in roles(comparison, comparison.best_in_hindsight)
    assert roles(comparison, "head") == []
    assert "further_training" not in others
    assert roles(comparison, "further_training") == ["reference"]
    named = (comparison.recommended, "further_training", "head")
    assert len({colour(comparison, each) for each in named}) == 3


def test_accuracies_are_cut_above_the_arms_far_below_but_not_above_the_reference() -> None:
    edge = accuracy_edge(material().comparisons[0])
    assert edge is not None
    assert 0.5 < edge < 0.75
    assert accuracy_edge(material(reference="untouched").comparisons[0]) is None
    assert accuracy_edge(material(arms=ARMS[1:], reference="absent").comparisons[0]) is not None
