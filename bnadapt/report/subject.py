"""What data consist of, in words: images, or rows of numbers."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from bnadapt.data.wording import unit_of
from bnadapt.report.drawing import Drawing
from bnadapt.report.page import Page, Plot, Section, Table

_IMAGE = re.compile(r"\b([Ii])mage(s?)\b")


def are_rows(shape: Sequence[int]) -> bool:
    """Whether a shape is that of a row of numbers, and not of an image."""
    return len(shape) == 1


def subject(shape: Sequence[int]) -> str:
    """What data of this shape consist of: ``images`` or ``rows``."""
    return unit_of(shape)


def size_in_words(shape: Sequence[int]) -> str:
    """The size of one image, ``28x28x1``, or row, ``4 numbers``."""
    if are_rows(shape):
        return f"{shape[0]:,} number{'s' * (shape[0] != 1)}"
    return "x".join(map(str, shape))


def about_rows(text: str) -> str:
    """What is said of images, said of rows: ``35 test images`` becomes ``35 test rows``."""
    return _IMAGE.sub(lambda found: ("R" if found[1] == "I" else "r") + f"ow{found[2]}", text)


def page_about_rows(page: Page) -> Page:
    """The same page, where what it says of images is said of rows; names, commands and settings stay."""
    return replace(
        page,
        verdict=tuple(map(about_rows, page.verdict)),
        advice=tuple(map(about_rows, page.advice)),
        sections=tuple(map(_section, page.sections)),
    )


def drawing_about_rows(drawing: Drawing) -> Drawing:
    """The same plot with its words about rows; names of classes and layers stay."""

    def draw() -> Figure:
        figure = drawing.draw()
        for text in figure.findobj(Text):
            text.set_text(about_rows(text.get_text()))
        return figure

    return replace(drawing, title=about_rows(drawing.title), draw=draw)


def _section(section: Section) -> Section:
    return replace(
        section,
        title=about_rows(section.title),
        paragraphs=tuple(map(about_rows, section.paragraphs)),
        parts=tuple(map(_part, section.parts)),
    )


def _part(part: Any) -> Any:
    if isinstance(part, Table):
        return replace(
            part,
            headings=tuple(map(about_rows, part.headings)),
            title=about_rows(part.title),
            note=about_rows(part.note),
        )
    return replace(part, title=about_rows(part.title)) if isinstance(part, Plot) else part
