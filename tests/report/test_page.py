"""The page as HTML and as Markdown: complete, self-contained, and harmless whatever the names are."""

import base64
import re
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from bnadapt.evaluation.results import Difference
from bnadapt.report.page import Code, Page, Plot, Section, Table, html, markdown

PNG = b"\x89PNG\r\n\x1a\n and the rest"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \" ' & `code` **bold** [a](http://b) a|b 数字 наука"
EMPTY_ELEMENTS = {"meta", "img", "line", "br"}


def difference(estimate: float, low: float, high: float) -> Difference:
    return Difference(estimate, low, high, p_value=0.5, gained=1, lost=2)


def page(name: str = "digits", answer: str = "helped") -> Page:
    return Page(
        title=name,
        facts=(f"network {name}", "seed 0"),
        answer=answer,
        verdict=(f"It helped {name}.", "Against the control."),
        differences=(("the baseline", difference(0.02, -0.01, 0.05)), (name, difference(-0.01, -0.03, 0.01))),
        advice=(f"More labels of {name}.",),
        sections=(
            Section(
                f"Stages of {name}",
                (f"On {name}.",),
                (
                    Table(
                        ("stage", ">accuracy"),
                        ((name, "91.2 %\n88.0 to 93.0"), ("adapt", "-")),
                        emphasized=1,
                        title=f"All {name}",
                        note=f"Note on {name}.",
                    ),
                    Plot("plots/loss.png", f"Loss of {name}", PNG, f"Below {name}."),
                    Code(f"bnadapt data={name}", "Command"),
                    Code(f"0 {name}", f"Classes of {name}", folded=True),
                    Table(("layer", "because"), ((name, "the head"),), title="Passed over", folded=True),
                ),
            ),
        ),
    )


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, and the text, nesting checked."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize("name", ["digits", HOSTILE])
def test_the_page_fetches_nothing_and_runs_nothing(name: str) -> None:
    source = html(page(name))
    read = Reader(source)
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert {element["src"][:22] for element in read.all("img")} == {"data:image/png;base64,"}
    assert all(element["href"].startswith("#") for element in read.all("a"))
    assert not [key for _, attributes in read.elements for key in attributes if key.startswith("on")]
    styles = re.search(r"<style>(.*?)</style>", source, re.DOTALL)
    assert styles is not None
    assert "url(" not in styles[1]
    assert "@import" not in styles[1]


def test_hostile_names_are_shown_as_they_are() -> None:
    read = Reader(html(page(HOSTILE)))
    assert read.text.count(HOSTILE) == Reader(html(page("digits"))).text.count("digits") > 10
    assert [element["alt"] for element in read.all("img")] == [f"Loss of {HOSTILE}"]


def test_everything_is_on_the_page() -> None:
    read = Reader(html(page()))
    position = 0
    for text in (
        "digits", "network digits", "It helped digits.", "against the baseline", "+2.0 points", "Against the control.",
        "What to try next", "More labels of digits.", "Stages of digits", "On digits.", "All digits", "91.2 %",
        "88.0 to 93.0", "Note on digits.", "Below digits.", "Command", "bnadapt data=digits", "Classes of digits",
        "0 digits", "Passed over", "the head",
    ):  # fmt: skip
        position = read.text.find(text, position) + len(text)
        assert position >= len(text), text


def test_plots_are_inside_the_page() -> None:
    (image,) = Reader(html(page())).all("img")
    assert base64.b64decode(image["src"].partition(",")[2]) == PNG


def test_links_lead_to_sections() -> None:
    read = Reader(html(page()))
    targets = {attributes.get("id") for _, attributes in read.elements}
    assert {element["href"].removeprefix("#") for element in read.all("a")} <= targets


def test_it_adapts_to_dark_screens_phones_and_paper() -> None:
    source = html(page())
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in source
    for query in ("prefers-color-scheme: dark", "max-width: 40rem", "@media print"):
        assert query in source


@pytest.mark.parametrize(
    ("answer", "tone"),
    [
        ("helped", "good"),
        ("hurt", "bad"),
        ("uncontrolled", "open"),
        ("no difference", "neutral"),
        ("", "neutral"),
    ],
)
def test_the_answer_has_its_colour(answer: str, tone: str) -> None:
    classes = [element.get("class") for element in Reader(html(page(answer=answer))).all("section")]
    assert classes[0] == f"verdict {tone}"


def test_intervals_lie_on_one_axis_in_order() -> None:
    lines = Reader(html(page())).all("line")
    zeros = {line["x1"] for line in lines if line["class"] == "zero"}
    assert len(zeros) == 1
    (zero,) = map(float, zeros)
    first, second = (
        [float(each[end]) for end in ("x1", "x2")] for each in lines if each["class"] == "interval"
    )
    assert 0 < second[0] < first[0] < zero < second[1] < first[1] < 100
    # Both ends are as far from zero as their shares say: -0.03, -0.01, 0.01 and 0.05.
    scale = (zero - second[0]) / 0.03
    for place, share in ((first[0], -0.01), (second[1], 0.01), (first[1], 0.05)):
        assert place - zero == pytest.approx(share * scale, abs=0.02)


@pytest.mark.parametrize(
    ("low", "high", "tone"), [(0.01, 0.03, "good"), (-0.03, -0.01, "bad"), (-0.01, 0.01, "neutral")]
)
def test_an_interval_has_the_colour_of_what_it_shows(low: float, high: float, tone: str) -> None:
    compared = (("the baseline", difference((low + high) / 2, low, high)),)
    one = Page("x", (), "hurt", ("No.",), compared, (), ())
    assert [each["class"] for each in Reader(html(one)).all("td") if "class" in each] == [
        f"drawing {tone}",
        "right",
    ]


def test_equal_networks_have_an_interval_too() -> None:
    same = Page("x", (), "no difference", ("No.",), (("the baseline", difference(0.0, 0.0, 0.0)),), (), ())
    (line,) = (each for each in Reader(html(same)).all("line") if each["class"] == "interval")
    assert (line["x1"], line["x2"]) == ("50.0", "50.0")


def test_a_page_without_a_verdict_has_none() -> None:
    bare = Page("x", (), "", (), (), (), ())
    assert not Reader(html(bare)).all("section")
    assert markdown(bare) == "# x\n"


def rendered(text: str) -> Reader:
    return Reader(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def test_markdown_says_the_same() -> None:
    text = markdown(page())
    assert text.startswith(
        "# digits\n\nnetwork digits · seed 0\n\n**It helped digits.**\n\n- Against the control.\n"
    )
    assert (
        "| stage | accuracy |\n|---|---:|\n| digits | 91.2 % (88.0 to 93.0) |\n| **adapt** | **-** |\n"
        in text
    )
    assert "![Loss of digits](plots/loss.png)\n\nBelow digits.\n" in text
    assert "```\nbnadapt data=digits\n```" in text
    headings = [tag for tag, _ in rendered(text).elements if tag in ("h1", "h2")]
    assert headings == ["h1", "h2", "h2"]


def test_hostile_names_are_plain_text_in_markdown() -> None:
    read = rendered(markdown(page(HOSTILE)))
    assert not {tag for tag, _ in read.elements} & {"script", "a"}
    assert [element["src"] for element in read.all("img")] == ["plots/loss.png"]
    assert (len(read.all("tr")), len(read.all("th")), len(read.all("td"))) == (5, 4, 6)
    assert read.text.count(HOSTILE) == rendered(markdown(page("digits"))).text.count("digits") > 10


@pytest.mark.parametrize("start", ["1. a", "10) a", "- a", "+ a", "# a", "> a", "=== a", "* a", "    1) a"])
def test_no_sentence_becomes_a_list_a_heading_or_code(start: str) -> None:
    page_of_one = Page("x", (), "", (start, start), (), (start,), (Section("s", (start,)),))
    read = rendered(markdown(page_of_one))
    tags = [tag for tag, _ in read.elements]
    assert (tags.count("ul"), tags.count("li"), tags.count("ol"), tags.count("code")) == (2, 2, 0, 0)
    assert (tags.count("h1"), tags.count("h2"), tags.count("blockquote")) == (1, 2, 0)
    assert read.text.count(start.strip()) == 4


def test_backticks_do_not_end_a_block_of_code() -> None:
    code = "bnadapt 'name=\n```\n<b>'"
    read = rendered(markdown(Page("x", (), "", (), (), (), (Section("s", (), (Code(code),)),))))
    assert code in read.text
    assert not read.all("b")


def test_signs_that_turn_the_direction_of_text_do_not_reach_what_follows() -> None:
    name = "evil \u202e\u2066name"
    lines = [
        line for line in markdown(page(name)).splitlines() if re.search("[\u202a-\u202e\u2066-\u2069]", line)
    ]
    assert lines == [f"bnadapt data={name}", f"0 {name}"]  # blocks of code, where the line ends it
    source = html(page(name))
    assert re.search("<bdi>[^<]*\u202e", source)
