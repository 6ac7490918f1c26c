"""Lists of names in messages."""

from bnadapt.surgery.wording import listed


def test_long_lists_end_in_a_number():
    assert listed([]) == ""
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed(list("abc"), at_most=2) == "a, b and 1 more"
