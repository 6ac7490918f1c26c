"""Reports of rows of numbers speak of rows, and leave names, commands and settings as they are."""

from types import SimpleNamespace

import numpy as np
import pytest
from comparison_examples import material
from matplotlib.text import Text

from bnadapt.comparison.account import in_words_of_data
from bnadapt.evaluation.changes import ChangedImage, Changes
from bnadapt.evaluation.scores import score_outputs
from bnadapt.report.comparisons import recall_change
from bnadapt.report.drawing import Drawing
from bnadapt.report.look import Look, changed_rows, class_drawings, class_table
from bnadapt.report.page import Code, Page, Plot, Section, Table
from bnadapt.report.subject import about_rows, drawing_about_rows, page_about_rows, size_in_words, subject

LABELS = np.array([0, 0, 0, 1, 1, 2])
BEFORE = score_outputs(np.eye(4)[[0, 0, 1, 0, 0, 2]], LABELS, from_logits=False)
AFTER = score_outputs(np.eye(4)[[0, 0, 0, 1, 0, 1]], LABELS, from_logits=False)
CHANGES = Changes(2, 1, (ChangedImage(2, 0, 1, 0), ChangedImage(3, 1, 0, 1), ChangedImage(5, 2, 2, 1)))
CLASSES = ["common", "two\nlines", "image 3", "never seen"]


def look(images: np.ndarray) -> Look:
    return Look("adapt", "baseline", CLASSES, LABELS, AFTER, BEFORE, CHANGES, images)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((28, 28, 1), ("images", "28x28x1")), ((4,), ("rows", "4 numbers")), ((1,), ("rows", "1 number"))],
)
def test_what_data_consist_of(shape: tuple[int, ...], words: tuple[str, str]) -> None:
    assert (subject(shape), size_in_words(shape)) == words


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("35 test images gained, 1 image lost", "35 test rows gained, 1 row lost"),
        ("Images of ImageNet, imagery, my_images", "Rows of ImageNet, imagery, my_images"),
    ],
)
def test_images_become_rows_as_whole_words(said: str, meant: str) -> None:
    assert about_rows(said) == meant


def test_sentences_of_a_comparison_say_what_the_data_consist_of() -> None:
    made = material(seeds=(0,), images=60).comparisons
    for shape, word, other in (((4,), "row", "image"), ((28, 28, 1), "image", "row")):
        start = SimpleNamespace(splits=SimpleNamespace(image_shape=shape))
        said = " ".join(in_words_of_data(made, start)[0].sentences)  # type: ignore[arg-type]
        assert f"% of 60 test {word}s right" in said
        assert f"{other}s" not in said


def test_a_page_keeps_its_names_and_commands() -> None:
    table = Table(
        ("class", ">test images"), (("image 3", "images"),), title="Test images", note="of the images"
    )
    parts = (table, Code("bnadapt data=images"), Plot("plots/a.png", "Test images", b""))
    page = Page(
        "images",
        ("images",),
        "",
        ("2 images",),
        (),
        ("more images",),
        (Section("Images", ("images",), parts),),
    )
    found = page_about_rows(page)
    assert (found.title, found.facts, found.verdict, found.advice) == (
        "images",
        ("images",),
        ("2 rows",),
        ("more rows",),
    )
    (section,) = found.sections
    assert (section.title, section.paragraphs) == ("Rows", ("rows",))
    assert section.parts == (
        Table(("class", ">test rows"), (("image 3", "images"),), title="Test rows", note="of the rows"),
        Code("bnadapt data=images"),
        Plot("plots/a.png", "Test rows", b""),
    )


def test_a_plot_keeps_its_names() -> None:
    drawing = Drawing(
        "Images", "recall", "Test images", lambda: recall_change(BEFORE, AFTER, CLASSES, after_name="a")
    )
    figure = drawing_about_rows(drawing).draw()
    figure.draw_without_rendering()
    written = [text.get_text() for text in figure.findobj(Text)]
    assert "image 3" in written
    assert any("recall on the test rows" in text for text in written)
    assert drawing_about_rows(drawing).title == "Test rows"


def test_rows_that_changed_are_listed_and_not_drawn() -> None:
    rows = np.arange(30.0).reshape(3, 10) / 7
    (table,) = changed_rows(look(rows))
    assert len(table.headings) == len(table.rows[0]) == 4 + 8
    assert table.rows[0][:6] == ("2", "common", "two lines", "common", "0", "0.142857")
    assert table.note == "The first row is 0. Of 10 columns the first 8 are shown."
    assert "changed_images" not in [each.name for each in class_drawings(look(rows))]
    assert changed_rows(look(np.zeros((3, 8, 8, 1)))) == ()
    assert "changed_images" in [each.name for each in class_drawings(look(np.zeros((3, 8, 8, 1))))]


def test_every_class_has_its_recall() -> None:
    (table,) = class_table(look(np.zeros((3, 1))))
    assert table.rows == (
        ("common", "3", "66.67 %", "100.00 %"),
        ("two lines", "2", "0.00 %", "50.00 %"),
        ("image 3", "1", "100.00 %", "0.00 %"),
    )
    assert table.note == f"Macro F1, which counts every class the same: {AFTER.macro_f1:.3f}, " + (
        f"{BEFORE.macro_f1:.3f} after baseline."
    )
