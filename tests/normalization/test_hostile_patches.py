"""Patches with a right checksum and a header that lies: refused at once, whatever it says."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnadapt.errors import ModelError
from bnadapt.normalization.patch_file import MAGIC, read_patch, write_patch

LARGEST = 1 << 20


def patch(path: Path, header: bytes, weights: bytes = b"", length: int | None = None) -> Path:
    rest = (len(header) if length is None else length).to_bytes(8, "little") + header + weights
    path.write_bytes(MAGIC + hashlib.sha256(rest).digest() + rest)
    return path


def refused(path: Path, message: str = "is damaged") -> None:
    begun = time.perf_counter()
    with pytest.raises(ModelError, match=message):
        read_patch(path, LARGEST)
    assert time.perf_counter() - begun < 2


def entry(**changes: Any) -> dict[str, Any]:
    return {"path": "bn/gamma", "shape": [2], "dtype": "float32", **changes}


@pytest.mark.parametrize(
    "weights",
    [
        [entry(shape=[1 << 62, 1 << 62])],
        [entry(shape=[-1])],
        [entry(shape=[-1, -2])],
        [entry(shape=[0, 1 << 70])],
        [entry(shape=["2"] * 100)],
        [entry(shape=[float("nan")])],
        [entry(shape=[float("inf")])],
        [entry(shape=[1] * 100)],
        [entry(shape={"a": 1})],
        [entry(shape=3)],
        [entry(dtype="object")],
        [entry(dtype="O")],
        [entry(dtype=["float32", "O"])],
        [entry(dtype="float32, (1000000,)float32")],
        [{"shape": [2], "dtype": "float32"}],
        [entry()] * 10_000,
        [[]],
        ["x"],
        {"a": 1},
        7,
        None,
    ],
    ids=lambda weights: json.dumps(weights)[:40],
)
def test_headers_that_lie_about_the_weights(weights: Any, tmp_path: Path) -> None:
    refused(
        patch(
            tmp_path / "x.patch", json.dumps({"weights": weights}).encode(), np.ones(2, "float32").tobytes()
        )
    )


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"9" * 100_000,
        b'{"weights": NaN}',
    ],
    ids=lambda header: str(header[:10]),
)
def test_headers_that_are_none(header: bytes, tmp_path: Path) -> None:
    refused(patch(tmp_path / "x.patch", header))


@pytest.mark.parametrize("length", [1 << 63, 1 << 40, 100])
def test_a_header_longer_than_the_file(length: int, tmp_path: Path) -> None:
    refused(patch(tmp_path / "x.patch", b"{}", length=length))


def test_a_file_larger_than_any_patch_of_the_network_is_not_read(tmp_path: Path) -> None:
    path = patch(tmp_path / "x.patch", b"{}")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # as large as no memory, and no bytes on the disk
    refused(path, "has 1,099,511,627,776 bytes, and a patch of this network can have 1,048,576 at most")


def test_any_truncation(tmp_path: Path) -> None:
    path = tmp_path / "x.patch"
    write_patch(path, {"kind": "x"}, {"bn/gamma": np.arange(5, dtype="float32")})
    whole = path.read_bytes()
    read_patch(path, LARGEST)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, "is damaged|is no patch|is a patch of version")


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_header(tmp_path_factory: pytest.TempPathFactory, weights: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "x.patch"
    header = json.dumps({"weights": weights}).encode()
    if weights in ([], {}, ""):
        assert read_patch(patch(path, header), LARGEST) == ({}, {})
    else:
        refused(patch(path, header))
