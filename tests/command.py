"""The real command in a process of its own, and what it left in MLflow."""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from tests.processes import begin

# A run that takes seconds.
QUICK = ["baseline.epochs=2", "schedule.adapt.epochs=1", "schedule.finetune.epochs=1", "model.widths=[32,16]"]


@dataclass(frozen=True)
class Finished:
    directory: Path
    output: str
    errors: str
    code: int

    @property
    def run_id(self) -> str:
        found = re.search(r"^run: (\w+)$", self.output, re.MULTILINE)
        assert found, self.output + self.errors
        return found[1]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.directory}/mlflow.db")

    @property
    def parent(self) -> Run:
        return self.client.get_run(self.run_id)

    def children(self, parent: str | None = None) -> dict[str, Run]:
        found = self.client.search_runs(
            ["1"], f"tags.`mlflow.parentRunId` = '{parent or self.run_id}'", order_by=["start_time ASC"]
        )
        return {run.data.tags["stage"]: run for run in found}


def environment() -> dict[str, str]:
    """For all commands of these tests the same caches, such as the embedded digits, which none of them changes."""
    return {**os.environ, "XDG_CACHE_HOME": _cache(), "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}


@cache
def _cache() -> str:
    directory = tempfile.mkdtemp(prefix="bnadapt-tests-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return begin(
        [sys.executable, "-m", "bnadapt", *arguments],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def bnadapt(*arguments: str, cwd: Path) -> Finished:
    process = start(*arguments, cwd=cwd)
    output, errors = process.communicate()
    return Finished(cwd, output, errors, process.returncode)
