"""Fetching a TensorFlow Datasets set, with a clear word where that cannot work."""

import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import tensorflow_datasets as tfds

from bnadapt.data.availability import close_names, official_names
from bnadapt.data.prepared import SetName
from bnadapt.errors import DataError

_PATIENCE_SECONDS = 10
_HOSTS_TRIED = 3


def fetch(wanted: SetName, directory: Path) -> None:
    """Download and prepare a set below the directory.

    Hosts are tried first: without a network TensorFlow Datasets would try again for more than three
    minutes before it gives up.

    Raises:
        DataError: If there is no such set, no host can be reached, or the preparation fails.
    """
    builder = _builder(wanted, directory)
    _require_network(builder, wanted)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except Exception as error:  # Builders are code of many authors: anything may be raised.
        raise DataError(f"data.name={wanted}: cannot be downloaded and prepared: {error}") from error


def _builder(wanted: SetName, directory: Path) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(str(wanted), data_dir=directory)
    except tfds.core.DatasetNotFoundError as error:
        close = close_names(wanted, official_names())
        hint = f"; close names: {', '.join(close)}" if close else ""
        raise DataError(f"data.name={wanted}: TensorFlow Datasets has no set of that name{hint}") from error
    except (ValueError, AssertionError) as error:
        builder = tfds.builder_cls(wanted.name)
        configs = ", ".join(f"{wanted.name}/{each}" for each in builder.builder_configs) or "none"
        raise DataError(
            f"data.name={wanted}: no such configuration or version; configurations: {configs}; "
            f"version: {builder.VERSION}"
        ) from error


def _require_network(builder: tfds.core.DatasetBuilder, wanted: SetName) -> None:
    downloads = Path(builder._data_dir_root) / "downloads"
    if downloads.is_dir() and any(each.is_file() for each in downloads.iterdir()):
        return  # The archives may be there already.
    hosts: dict[str, str] = {}
    for url in builder.url_infos or {}:
        if urlsplit(url).scheme in ("http", "https"):
            hosts.setdefault(urlsplit(url).netloc, url)
    failures = []
    for host, url in list(hosts.items())[:_HOSTS_TRIED]:
        reason = _unreachable(url)
        if reason is None:
            return
        failures.append(f"{host}: {reason}")
    if failures:
        raise DataError(
            f"data.name={wanted} data.download=true: no network to download from ({'; '.join(failures)}); "
            "prepare the set where there is one and name its directory by data.dir"
        )


def _unreachable(url: str) -> str | None:
    """Why no server answers at a URL; None where one answers, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_PATIENCE_SECONDS):
            return None
    except urllib.error.HTTPError:
        return None
    except urllib.error.URLError as error:
        return str(error.reason)
    except OSError as error:
        return str(error)
