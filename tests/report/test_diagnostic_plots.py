"""Every plot of diagnostics shows what it should, for few and for many classes, layers and images."""

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from bnadapt.evaluation.changes import ChangedImage, Changes
from bnadapt.evaluation.results import LayerGap, LayerShift
from bnadapt.report.diagnostics import (
    changed_images_grid,
    confusion_matrix,
    statistics_gaps,
    statistics_shifts,
)
from bnadapt.report.style import arrow, png_of, readable

pytestmark = pytest.mark.filterwarnings("error")


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    return buffer.getvalue()


def texts(figure: Figure, place: int = 0) -> list[str]:
    return [each.get_text() for each in figure.axes[place].texts]


def bars(figure: Figure, place: int = 0) -> list[float]:
    return [each.get_width() for each in figure.axes[place].patches]


def ticks(figure: Figure, place: int = 0) -> list[str]:
    return [each.get_text() for each in figure.axes[place].get_yticklabels()]


def test_few_classes_are_drawn_with_their_numbers() -> None:
    figure = confusion_matrix(np.array([[1234, 3], [0, 40]]), ["cats", "$dogs$"], name="adapt")
    assert png(figure).startswith(b"\x89PNG")
    assert texts(figure) == ["1,234", "3", "40"]
    assert ticks(figure) == ["cats", "$dogs$"]
    assert figure.get_suptitle() == "Which classes adapt takes for which"


def test_right_and_wrong_differ_in_colour_and_nothing_is_white() -> None:
    figure = confusion_matrix(np.array([[8, 2, 0], [0, 0, 0], [0, 0, 3]]), ["a", "b", "c"], name="adapt")
    colours = np.asarray(figure.axes[0].images[0].get_array())
    red, blue = 0, 2
    assert colours[0, 0, blue] > colours[0, 0, red]
    assert colours[0, 1, red] > colours[0, 1, blue]
    # A class without images has a row without colours.
    np.testing.assert_array_equal(colours[1, :, :3], 1)
    np.testing.assert_array_equal(colours[0, 2, :3], 1)


@pytest.mark.parametrize("number", [21, 100, 200])
def test_of_many_classes_the_most_frequent_confusions_are_listed(number: int) -> None:
    counts = np.diag(np.full(number, 50)) + np.eye(number, k=1, dtype=int)
    counts[3, 9], counts[7, 2] = 12, 30
    figure = confusion_matrix(counts, [f"class of images {index}" for index in range(number)], name="adapt")
    assert png(figure).startswith(b"\x89PNG")
    assert texts(figure) == []
    assert len(ticks(figure)) <= 40
    assert ticks(figure, 1)[:2] == [
        "class ...ages 7 \u2192 class ...ages 2",
        "class ...ages 3 \u2192 class ...ages 9",
    ]
    assert bars(figure, 1)[:3] == [30, 12, 1]
    assert len(bars(figure, 1)) == 20


def test_where_nothing_is_confused_nothing_is_listed() -> None:
    figure = confusion_matrix(np.diag(np.full(30, 5)), [str(index) for index in range(30)], name="adapt")
    assert png(figure).startswith(b"\x89PNG")
    assert bars(figure, 1) == []


def gaps(number: int) -> list[LayerGap]:
    return [LayerGap(f"conv{index}_inserted_bn", 8, index / 100, index / 200, 0.5) for index in range(number)]


def test_gaps_are_drawn_with_their_values_and_those_too_large_stand_out() -> None:
    layers = [LayerGap("bn1", 4, 0.4, math.log(1.1), 0.25), LayerGap("bn2", 4, 0.001, math.log(2), math.nan)]
    figure = statistics_gaps(layers, name="adapt")
    assert png(figure).startswith(b"\x89PNG")
    np.testing.assert_allclose(bars(figure, 0), [0.4, 0.001])
    np.testing.assert_allclose(bars(figure, 1), [10, 100])
    np.testing.assert_allclose(bars(figure, 2), [25, 0])
    assert [texts(figure, place) for place in range(3)] == [
        ["0.40", "0.00"],
        ["10 %", "100 %"],
        ["25 %", "no gamma"],
    ]
    colours = [[patch.get_facecolor() for patch in figure.axes[place].patches] for place in range(2)]
    assert colours[0][0] == colours[1][1] != colours[0][1] == colours[1][0]


def test_small_gaps_look_small() -> None:
    figure = statistics_gaps([LayerGap("bn", 4, 1e-6, 1e-6, 0)], name="adapt")
    assert [axes.get_xlim()[1] > 0.2 for axes in figure.axes] == [True] * 3


@pytest.mark.parametrize("number", [1, 3, 60])
def test_gaps_of_few_and_many_layers(number: int) -> None:
    figure = statistics_gaps(gaps(number), name="adapt")
    assert png(figure).startswith(b"\x89PNG")
    assert ticks(figure) == [f"conv{index}_inserted_bn" for index in range(number)]
    assert "more layers" not in figure.get_supxlabel()


def test_of_more_than_60_layers_the_largest_are_drawn_in_their_order() -> None:
    figure = statistics_gaps(gaps(75), name="adapt")
    assert ticks(figure) == [f"conv{index}_inserted_bn" for index in range(15, 75)]
    assert "; 15 more layers have smaller gaps and are not drawn" in figure.get_supxlabel()


def test_shifts_are_drawn_with_their_values() -> None:
    shifts = [LayerShift("bn1", 4, 2.5, 0, 0), LayerShift("bn2", 4, 0.0123, 0, 0)]
    figure = statistics_shifts(shifts, before="mnist", after="usps")
    assert png(figure).startswith(b"\x89PNG")
    assert bars(figure) == [2.5, 0.0123]
    assert texts(figure) == ["2.5", "0.0123"]
    assert figure.get_suptitle() == "Shift from mnist to usps, layer by layer"
    many = [LayerShift(f"bn{index}", 4, 70 - index, 0, 0) for index in range(70)]
    figure = statistics_shifts(many, before="mnist", after="usps")
    assert ticks(figure) == [f"bn{index}" for index in range(60)]
    assert "10 more layers have smaller shifts" in figure.axes[0].get_xlabel()


def changes(gained: int, lost: int) -> Changes:
    shown = [ChangedImage(index, 0, 1, 0) for index in range(gained)]
    shown += [ChangedImage(index, 1, 1, 0) for index in range(lost)]
    return Changes(gained + 5, lost, tuple(shown))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_are_shown_with_class_and_both_predictions(channels: int) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (9, 8, 8, channels))
    figure = changed_images_grid(
        changes(7, 2), images, ["cat", "dog"], before_name="baseline", after_name="adapt"
    )
    assert png(figure).startswith(b"\x89PNG")
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == ["cat"] * 7 + ["dog"] * 2
    assert [axes.get_xlabel() for axes in drawn] == ["dog \u2192 cat"] * 7 + ["dog \u2192 cat"] * 2
    first = np.asarray(drawn[0].images[0].get_array())
    expected = images[0, ..., :3] / 255 if channels > 2 else images[0].mean(axis=-1) / 255
    np.testing.assert_allclose(first, expected)
    headings = [part.get_suptitle() for part in figure.subfigs]
    assert headings == [
        "Gained: 12 that only adapt has right, 7 of them shown",
        "Lost: 2 that only baseline has right",
    ]


def test_where_no_image_changed_the_plot_says_so() -> None:
    figure = changed_images_grid(
        Changes(0, 0, ()), np.zeros((0, 1, 1, 1)), ["cat"], before_name="baseline", after_name="adapt"
    )
    assert png(figure).startswith(b"\x89PNG")
    assert [part.get_suptitle() for part in figure.subfigs] == [
        "Gained: 0 that only adapt has right",
        "Lost: 0 that only baseline has right",
    ]


def test_names_in_any_script_are_drawn_or_replaced() -> None:
    names = ["наука", "\U0001f9ea", "a very long name, as folders of images have them"]
    shown = (ChangedImage(0, 0, 1, 0), ChangedImage(1, 2, 1, 2))
    figure = changed_images_grid(
        Changes(2, 0, shown), np.zeros((2, 4, 4, 1)), names, before_name="baseline", after_name="adapt"
    )
    assert png(figure).startswith(
        b"\x89PNG"
    )  # a letter that no font has would be a warning, so an error here
    assert [axes.get_title() for axes in figure.axes if axes.images] == ["наука", "a very...e them"]
    assert png(confusion_matrix(np.eye(3, dtype=int), names, name="adapt")).startswith(b"\x89PNG")


SCRIPTS = [
    "\u4e2d\u6587", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600",
    "a\tb", "a\r\nb", "\u202eabc", "\ud800", "x\x00y", "", " ", "$x^2$", "\u200bzero", "\u043d\u0430\u0443",
]  # fmt: skip


def test_names_in_any_script_are_drawn_without_a_warning() -> None:
    number = len(SCRIPTS)
    counts = np.full((number, number), 1)
    figures = [
        confusion_matrix(np.tile(counts, (2, 2)), SCRIPTS * 2, name=SCRIPTS[0]),
        confusion_matrix(counts, SCRIPTS, name=SCRIPTS[0]),
        changed_images_grid(
            changes(7, 2), np.zeros((9, 4, 4, 4)), SCRIPTS[:2], before_name="a", after_name=SCRIPTS[0]
        ),
        statistics_gaps([LayerGap(name, 3, 0.1, 0.1, 0.0) for name in SCRIPTS], name=SCRIPTS[0]),
        statistics_shifts(
            [LayerShift(name, 3, 0.1, 0.1, 0.1) for name in SCRIPTS], before=SCRIPTS[0], after="b"
        ),
    ]
    assert all(png_of(figure).startswith(b"\x89PNG") for figure in figures)


@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("\u202eabc", "abc"),
        ("a\r\nb", "a b"),
        ("a\tb", "a b"),
        ("", "class 1"),
        (" ", "class 1"),
        ("\ud800", "class 1"),
    ],
)
def test_a_name_is_drawn_on_one_line_and_in_its_own_direction(name: str, drawn: str) -> None:
    assert readable(name, "class 1") == drawn


def test_an_arrow_points_to_the_right_whatever_is_written_from_the_right() -> None:
    hebrew = "\u05e9\u05dc\u05d5\u05dd"
    assert arrow("cat", "dog") == "cat \u2192 dog"
    assert arrow("cat", "dog", lines=True) == "cat\n\u2192 dog"
    # Between two names of one direction the arrow would take theirs, and point at the wrong one.
    mark = "\u200e"
    assert arrow(hebrew, hebrew) == f"{mark}{hebrew}{mark} \u2192 {mark}{hebrew}"
    assert arrow(hebrew, "dog", lines=True) == f"{mark}{hebrew}{mark}\n{mark}\u2192 {mark}dog"


def test_nothing_confused_is_said() -> None:
    figure = confusion_matrix(np.eye(30, dtype=int), [str(each) for each in range(30)], name="a")
    assert "no class was taken for another" in [axes.get_title() for axes in figure.axes]
    assert png(figure).startswith(b"\x89PNG")
