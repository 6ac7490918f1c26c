"""Which programs made the results."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("keras", "tensorflow", "numpy", "mlflow")
SECONDS_FOR_GIT = 5.0


def versions() -> dict[str, str]:
    """Versions by name: Python, the packages that decide results, the commit of a checkout, the system.

    Under ``commit`` stands the checkout that bnadapt was run from, and whether it had changes; an installed
    bnadapt has none.
    """
    commit = commit_of(Path(__file__).resolve().parent.parent)
    return {
        "bnadapt": _version("bnadapt"),
        **({"commit": commit} if commit else {}),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
    }


def commit_of(package: Path) -> str | None:
    """The commit of the checkout that tracks this package's directory; None where there is none.

    A package installed below somebody's own checkout is not tracked there, and has no commit.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(package, "status", "--porcelain", "--", ".")
    return f"{commit} with uncommitted changes" if changed else commit


def _git(directory: Path, *words: str) -> str | None:
    """What git prints; None where it fails, is missing, or takes its time."""
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=directory,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=SECONDS_FOR_GIT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
