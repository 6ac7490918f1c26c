"""Real pipelines that are killed and gone on with, and what must be the same as if they had not been."""

import json
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from tests import warm
from tests.command import Finished, environment
from tests.processes import begin

PLANNED = "images of"  # in the second line of the plan; the work begins a moment later


@dataclass
class Left:
    """What a pipeline left: hashes of the weights by stage, metrics by run, key and step, and its files."""

    weights: dict[str, str]
    metrics: dict[str, dict[str, list[tuple[int, float]]]]
    statuses: dict[str, str]
    parents: int
    files: set[str] = field(default_factory=set)


def left(directory: Path, store: Path | None = None, *, parent: str | None = None) -> Left:
    """What MLflow and the run directory hold of a pipeline, the only one of its store unless it is named."""
    client = MlflowClient(f"sqlite:///{store or directory / 'mlflow.db'}")
    runs = client.search_runs(["1"], run_view_type=ViewType.ALL, max_results=1000)
    if parent is not None:
        runs = [run for run in runs if parent in (run.info.run_id, run.data.tags.get("mlflow.parentRunId"))]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = {run.data.tags["mlflow.parentRunId"] for run in children}  # one, however often it was killed
    report = next(path for path in directory.glob("outputs/*/*/report.html"))
    return Left(
        weights={
            run.info.run_name: run.data.tags["weights_sha256"]
            for run in children
            if "weights_sha256" in run.data.tags
        },
        metrics={run.info.run_name: _history(client, run) for run in children}
        | {"pipeline": _history(client, client.get_run(parent))},
        statuses={run.info.run_name or "": run.info.status for run in runs},
        parents=len(runs) - len(children),
        files={
            path.relative_to(report.parent).as_posix() for path in report.parent.rglob("*") if path.is_file()
        },
    )


def steps_that_repeat(metrics: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]) -> list[str]:
    """Every step of a metric that MLflow shows more than once."""
    return [
        f"{run} {key} step {step}: {count} times"
        for run, of_run in metrics.items()
        for key, points in of_run.items()
        for step, count in Counter(step for step, _ in points).items()
        if count > 1
    ]


def comparable(
    metrics: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]],
) -> dict[str, dict[str, object]]:
    """The metrics that two runs of the same command must agree in, to the last bit."""
    return {
        run: {
            key: points
            for key, points in of_run.items()
            if not key.endswith("seconds") and "system/" not in key
        }
        for run, of_run in metrics.items()
    }


def killed_after(
    seconds: float,
    *arguments: str,
    cwd: Path,
    number: int = signal.SIGKILL,
    start: Callable[..., Any] = warm.start,
) -> tuple[bool, str, str, float]:
    """Run the command, send a signal so long after its plan was printed.

    ``start`` is that of :mod:`tests.warm` or of :mod:`tests.command`.

    Returns:
        Whether the signal came before the end; what was printed; the error stream; seconds from signal to end.
    """
    process = start(*arguments, cwd=cwd)
    assert process.stdout is not None
    assert process.stderr is not None
    lines: list[str] = []
    errors: list[str] = []
    planned = threading.Event()
    readers = [
        threading.Thread(target=_read, args=(process.stdout, lines, planned)),
        threading.Thread(target=_read, args=(process.stderr, errors, threading.Event())),
    ]
    for reader in readers:
        reader.start()
    while not planned.wait(0.05) and process.poll() is None:
        pass
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    caught = process.poll() is None
    began = time.monotonic()
    if caught:
        process.send_signal(number)
    process.wait()
    took = time.monotonic() - began
    for reader in readers:
        reader.join()
    return caught, "".join(lines), "".join(errors), took


def killed_when(reached: Callable[[], bool], *arguments: str, cwd: Path) -> None:
    """Run the command and kill it as soon as something is reached, which must be before its end."""
    process = warm.start(*arguments, cwd=cwd)
    while not reached():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()


# Kills itself as soon as it is about to open a file whose name contains the first argument.
_KILLS_ITSELF = """
import os, runpy, signal, sys
name = sys.argv.pop(1)
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and name in os.path.basename(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
runpy.run_module("bnadapt", run_name="__main__")
"""


def killed_opening(name: str, *arguments: str, cwd: Path) -> None:
    """Run the command in a process that is killed when it is about to open a file of such a name for the first time."""
    process = begin([sys.executable, "-c", _KILLS_ITSELF, name, *arguments], cwd=cwd, env=environment())
    assert process.wait() == -signal.SIGKILL


def ended_in(directory: Path) -> list[str]:
    """The stages that have ended by the journal of the only run below a working directory."""
    files = list(directory.glob("checkpoints/*/journal.json"))
    return list(json.loads(files[0].read_text(encoding="utf-8"))["ended"]) if files else []


def moments(seed: int, longest: float) -> Iterator[float]:
    """Random moments, in seconds after the plan, the same for a seed."""
    draw = random.Random(seed)
    while True:
        yield draw.uniform(0, longest)


def run_with_kills(
    arguments: Sequence[str],
    directory: Path,
    kills: int,
    seed: int,
    longest: float,
    commands: ModuleType = warm,
) -> tuple[Finished, int]:
    """Run a pipeline, kill it at random moments up to so often, each time gone on with; returns how often it was."""
    done, after = 0, moments(seed, longest)
    while done < kills:
        caught, *_ = killed_after(next(after), *arguments, "resume=true", cwd=directory, start=commands.start)
        if not caught:
            break
        done += 1
    return commands.bnadapt(*arguments, "resume=true", cwd=directory), done


def journal_of(directory: Path) -> dict[str, object]:
    """What the journal of the only run below a working directory says."""
    (file,) = directory.glob("checkpoints/*/journal.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def _history(client: MlflowClient, run: Run) -> dict[str, list[tuple[int, float]]]:
    return {
        key: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }


def _read(stream: IO[str], lines: list[str], planned: threading.Event) -> None:
    for line in stream:
        lines.append(line)
        if PLANNED in line:
            planned.set()
    planned.set()
