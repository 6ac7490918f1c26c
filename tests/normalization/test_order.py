"""Which layers share a pass."""

import keras
from keras import layers

from bnadapt.normalization.order import rounds


def norm(name: str) -> layers.BatchNormalization:
    return layers.BatchNormalization(name=name)


def test_a_chain_takes_one_round_each_and_branches_share():
    i = keras.Input((4,))
    stem = norm("stem")(i)
    left = norm("left2")(layers.Dense(4)(norm("left")(layers.Dense(4)(stem))))
    right = norm("right")(layers.Dense(4)(stem))
    model = keras.Model(i, norm("end")(left + right))
    paths = ["stem", "left", "right", "left2", "end"]
    assert rounds(model, paths) == [["stem"], ["left", "right"], ["left2"], ["end"]]


def test_only_the_named_layers_count():
    i = keras.Input((4,))
    model = keras.Model(i, norm("c")(norm("b")(norm("a")(i))))
    assert rounds(model, ["a", "c"]) == [["a"], ["c"]]
    assert rounds(model, ["b"]) == [["b"]]


def test_a_layer_that_feeds_itself_is_one_round():
    i, shared = keras.Input((4,)), norm("shared")
    model = keras.Model(i, norm("end")(shared(layers.Dense(4)(shared(i)))))
    assert rounds(model, ["shared", "end"]) == [["shared"], ["end"]]


def test_layers_that_shared_calls_make_depend_on_each_other_go_together():
    j = keras.Input((4,))
    inner = keras.Model(j, norm("b")(layers.Dense(4)(norm("a")(j))), name="inner")
    i = keras.Input((4,))
    model = keras.Model(i, norm("end")(inner(inner(norm("start")(i)))))
    paths = ["start", "inner/a", "inner/b", "end"]
    assert rounds(model, paths) == [["start"], ["inner/a", "inner/b"], ["end"]]


def test_a_second_call_makes_a_layer_wait_for_what_comes_before_it():
    i, shared = keras.Input((4,)), norm("shared")
    first = shared(i)
    late = norm("late")(layers.Dense(4)(i))
    model = keras.Model(i, [norm("side")(first), shared(late)])
    assert rounds(model, ["shared", "late", "side"]) == [["late"], ["shared"], ["side"]]


def test_a_circle_through_several_shared_layers_is_one_round():
    """a -> b by their first calls, b -> c by b's second one, c -> a by a's second one."""
    i, a, b, c = keras.Input((4,)), norm("a"), norm("b"), norm("c")
    first = b(layers.Dense(4)(a(i)))
    second = a(layers.Dense(4)(c(layers.Dense(4)(b(layers.Dense(4)(i))))))
    model = keras.Model(i, [norm("side")(first), second])
    assert rounds(model, ["a", "b", "c", "side"]) == [["a", "b", "c"], ["side"]]
