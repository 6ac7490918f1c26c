"""A report as one page: HTML that needs nothing beside itself, and the same as Markdown.

What a page says is put together elsewhere; here stands what a page can hold, and how it is written.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import jinja2

from bnadapt.evaluation.results import Difference
from bnadapt.evaluation.verdict import points

TEMPLATE = "page.html"
# Signs that turn the direction of the text behind them, which in Markdown nothing would end.
_WRITING_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")
TONES = {"helped": "good", "uncontrolled": "open", "hurt": "bad"}  # any other answer is neutral


@dataclass(frozen=True)
class Plot:
    """A drawing.

    Attributes:
        path: Where it lies beside the Markdown page: ``plots/loss.png``.
        title: What it shows, for those who cannot see it too.
        png: The drawing itself.
        note: What must be known to read it; may be empty.
    """

    path: str
    title: str
    png: bytes
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        headings: One for each column; ``>`` before it aligns the column to the right.
        rows: As many cells each as there are headings. What follows a line break in a cell is written small.
        emphasized: Number of the row that stands out, if one does.
        title: What it holds; may be empty.
        note: What must be known to read it; may be empty.
        folded: Whether the page shows the title alone until a reader opens it.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    emphasized: int | None = None
    title: str = ""
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Code:
    """Text that is shown as it is, such as a command.

    Attributes:
        text: The text.
        title: What it is; may be empty.
        folded: Whether the page shows the title alone until a reader opens it.
    """

    text: str
    title: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading, paragraphs, and what follows them."""

    title: str
    paragraphs: tuple[str, ...] = ()
    parts: tuple[Plot | Table | Code, ...] = ()


@dataclass(frozen=True)
class Page:
    """Everything that a report says.

    Attributes:
        title: What was adapted to what.
        facts: A few words each on network, placement and time, under the title.
        answer: The verdict in a word, as in :class:`bnadapt.evaluation.results.Verdict`.
        verdict: The verdict's sentences, the answer first.
        differences: What the best stage was compared with, by name.
        advice: What to try next, a sentence each.
        sections: The rest, in order.
    """

    title: str
    facts: tuple[str, ...]
    answer: str
    verdict: tuple[str, ...]
    differences: tuple[tuple[str, Difference], ...]
    advice: tuple[str, ...]
    sections: tuple[Section, ...]


def html(page: Page) -> str:
    """The page as a single HTML document: no script, no link to anywhere, plots inside.

    Every text is escaped, so that names of classes and files are shown and never obeyed.
    """
    return _template().render(
        page=page,
        tone=TONES.get(page.answer, "neutral"),
        intervals=_intervals(page.differences),
        sections=[(_anchor(number), section) for number, section in enumerate(page.sections)],
    )


def markdown(page: Page) -> str:
    """The page in Markdown; its plots are linked to by their paths."""
    blocks = [f"# {_plain(page.title)}", _paragraph(" · ".join(page.facts))]
    if page.verdict:
        first, *others = page.verdict
        blocks += [f"**{_plain(first)}**", *([_list(others)] if others else [])]
    if page.advice:
        blocks += ["## What to try next", _list(page.advice)]
    for section in page.sections:
        blocks += [f"## {_plain(section.title)}", *map(_paragraph, section.paragraphs)]
        blocks += [_WRITERS[type(part)](part) for part in section.parts]
    return "\n\n".join(block for block in blocks if block) + "\n"


@dataclass(frozen=True)
class _Interval:
    """A difference of accuracies, and where its parts lie on an axis from 0 to 100."""

    name: str
    text: str
    tone: str
    low: float
    estimate: float
    high: float
    zero: float


def _intervals(differences: Sequence[tuple[str, Difference]]) -> list[_Interval]:
    ends = [0.0, *(end for _, each in differences for end in (each.low, each.high, each.estimate))]
    left, right = min(ends), max(ends)
    margin = 0.06 * (right - left) or 0.01

    def place(share: float) -> float:
        return round(100 * (share - left + margin) / (right - left + 2 * margin), 2)

    def tone(each: Difference) -> str:
        return "good" if each.low > 0 else "bad" if each.high < 0 else "neutral"

    return [
        _Interval(
            name,
            points(each),
            tone(each),
            place(each.low),
            place(each.estimate),
            place(each.high),
            place(0.0),
        )
        for name, each in differences
    ]


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bnadapt.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["kind"] = lambda part: type(part).__name__.lower()
    environment.filters["heading"] = lambda heading: heading.removeprefix(">")
    environment.filters["cell"] = lambda text: text.partition("\n")[::2]
    return environment.get_template(TEMPLATE)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _anchor(number: int) -> str:
    return f"part{number + 1}"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: neither a mark nor HTML is left in it."""
    one_line = " ".join(_WRITING_DIRECTIONS.sub("", text).split())
    # An underscore within a word is no mark, and names of settings are read more easily without strokes.
    return re.sub(r"[\\`*\[\]<>#|~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", one_line.replace("&", "&amp;"))


def _paragraph(text: str) -> str:
    """The same at the start of a line, where a few more signs would begin a list."""
    return re.sub(r"^(\d*)([-+.)=])", r"\1\\\2", _plain(text))


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {_paragraph(sentence)}" for sentence in sentences)


def _plot(plot: Plot) -> str:
    note = f"\n\n{_paragraph(plot.note)}" if plot.note else ""
    return f"![{_plain(plot.title)}]({plot.path}){note}"


def _table(table: Table) -> str:
    lines = [_row([heading.removeprefix(">") for heading in table.headings])]
    lines.append("|" + "|".join("---:" if each.startswith(">") else "---" for each in table.headings) + "|")
    for number, row in enumerate(table.rows):
        lines.append(_row(row, bold=number == table.emphasized))
    title, note = f"**{_plain(table.title)}**" if table.title else "", _paragraph(table.note)
    return "\n\n".join(part for part in (title, "\n".join(lines), note) if part)


def _row(cells: Sequence[str], *, bold: bool = False) -> str:
    mark = "**" if bold else ""
    return "| " + " | ".join(f"{mark}{_cell(cell)}{mark}" if cell else "" for cell in cells) + " |"


def _cell(cell: str) -> str:
    first, _, detail = cell.partition("\n")
    return f"{_plain(first)} ({_plain(detail)})" if detail else _plain(first)


def _code(code: Code) -> str:
    longest = max((len(run) for run in re.findall("`+", code.text)), default=0)
    fence = "`" * max(3, longest + 1)
    title = f"**{_plain(code.title)}**\n\n" if code.title else ""
    return f"{title}{fence}\n{code.text.rstrip()}\n{fence}"


_WRITERS: dict[type, Callable[..., str]] = {Plot: _plot, Table: _table, Code: _code}
