"""Which programs made the results, and from which commit."""

import os
import platform
import subprocess
from pathlib import Path

import keras
import pytest

from bnadapt.tracking.versions import commit_of, versions


def git(directory: Path, *words: str) -> str:
    command = [
        "git",
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@example.com",
        "-c",
        "commit.gpgsign=false",
        *words,
    ]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package of one file, committed."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return package


def test_the_versions_are_those_that_run() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["keras"] == keras.__version__
    assert {"bnadapt", "tensorflow", "numpy", "mlflow", "system"} <= set(found)


def test_the_commit_of_a_checkout(checkout: Path) -> None:
    assert commit_of(checkout) == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("changed", ["__init__.py", "new.py"])
def test_a_commit_that_was_changed_since_says_so(checkout: Path, changed: str) -> None:
    (checkout / changed).write_text("x = 1\n")
    assert commit_of(checkout) == f"{git(checkout, 'rev-parse', 'HEAD')} with uncommitted changes"


def test_an_installed_package_is_not_of_the_checkout_that_it_lies_in(checkout: Path) -> None:
    installed = checkout.parent / "site-packages" / "bnadapt"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert commit_of(installed) is None


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(checkout))
    assert commit_of(checkout) is None
