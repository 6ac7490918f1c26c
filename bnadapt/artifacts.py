"""Files that explain results: made where they can be made, kept in the run's directory and in MLflow."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from bnadapt.files import write_bytes
from bnadapt.report.drawing import Drawing
from bnadapt.report.page import Page, Plot, html, markdown
from bnadapt.tracking.recording import Run

_log = logging.getLogger(__name__)

T = TypeVar("T")


def attempt(what: str, do: Callable[[], T]) -> T | None:
    """What ``do`` returns, or None, with a warning that names ``what``, where it raises.

    For everything that explains results: none of it may cost the results themselves.
    """
    try:
        return do()
    except Exception as error:
        # Networks, fonts and templates raise what they like, so the net is wide here.
        _log.warning("%s failed, the run goes on: %s: %s", what, type(error).__name__, error)
        _log.info("%s failed", what, exc_info=True)
        return None


def keep_file(run: Run, directory: Path, name: str, content: bytes) -> Path:
    """Keep a file, such as ``plots/loss.png``, in the directory and in MLflow; returns where it lies."""
    run.log_bytes(name, content)
    return write_bytes(directory / name, content)


def keep_drawings(
    run: Run, directory: Path, drawings: Iterable[Drawing]
) -> tuple[dict[str, list[Plot]], list[str]]:
    """Draw and keep plots; returns them by section, and a sentence on each that could not be drawn."""
    plots: dict[str, list[Plot]] = {}
    missing = []
    for drawing in drawings:
        png = attempt(f"the plot {drawing.path}", drawing.png)
        if png is None:
            missing.append(f"Missing, because it could not be drawn: {drawing.title}.")
            continue
        keep_file(run, directory, drawing.path, png)
        plots.setdefault(drawing.section, []).append(Plot(drawing.path, drawing.title, png))
    return plots, missing


def keep_report(run: Run, directory: Path, page: Page) -> Path:
    """Keep a page as Markdown, whose plots lie beside it, and as HTML; returns where the HTML lies."""
    # A name of a file that is no text in any encoding has letters that cannot be written.
    keep_file(run, directory, "report.md", markdown(page).encode("utf-8", "replace"))
    return keep_file(run, directory, "report.html", html(page).encode("utf-8", "replace"))
