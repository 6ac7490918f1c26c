"""The file of a fit: whole or not there, and never believed where it is not."""

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from interruptions import Interrupting, state_of
from small_stages import plain_network, train

from bnadapt.array_file import UnusableFileError, read, write
from bnadapt.config import StageSettings
from bnadapt.data.splits import Splits
from bnadapt.errors import StorageError
from bnadapt.evaluation.results import Epoch
from bnadapt.training.checkpoint import MAGIC, Checkpoint, State, restore
from tests.digits import digit_splits

KIND = b"numbers 1\n"
NOT_WHOLE = r"does not begin with 'numbers 1'|is damaged: its checksum is wrong"
DTYPES = ["bool", "int64", "uint32", "float16", "bfloat16", "float32", "float64"]


@given(st.lists(st.sampled_from(DTYPES), max_size=4), st.data())
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read(tmp_path_factory: Any, dtypes: list[str], data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "numbers"
    written = [
        data.draw(arrays("uint8", array_shapes(min_dims=0, min_side=0, max_side=3))).astype(dtype)
        for dtype in dtypes
    ]
    write(path, KIND, {"text": "ä", "number": 0.1}, written)
    header, found = read(path, KIND)
    assert header == {"text": "ä", "number": 0.1}
    assert [(str(each.dtype), each.shape, each.tobytes()) for each in found] == [
        (str(each.dtype), each.shape, each.tobytes()) for each in written
    ]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("file") / "numbers"
    write(path, KIND, {"a": 1}, [np.arange(6.0).reshape(2, 3), np.array(7, "uint32")])
    return path.read_bytes()


@pytest.mark.fault(
    "disk: a checkpoint cut off at any byte",
    "refused, never half believed",
)
def test_a_file_cut_off_anywhere_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UnusableFileError, match=NOT_WHOLE):
            read(path, KIND)


@pytest.mark.fault(
    "disk: a single flipped bit in a checkpoint",
    "refused, never half believed",
)
def test_a_single_bit_that_flips_is_noticed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(UnusableFileError, match=NOT_WHOLE):
            read(path, KIND)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"arrays": [{"shape": [9], "dtype": "float64"}]}, r"an array of shape \(9,\) is not all there"),
        ({"arrays": [{"shape": [-1], "dtype": "float64"}]}, "is not all there"),
        ({"arrays": [{"shape": [1], "dtype": "object"}]}, "values of type object"),
        ({"arrays": []}, "8 bytes more than the header tells of"),
        ({}, "KeyError 'arrays'"),
        ([], "TypeError|AttributeError"),
    ],
)
def test_a_right_checksum_over_nonsense_helps_nobody(tmp_path: Path, header: Any, message: str) -> None:
    text = json.dumps(header).encode()
    rest = len(text).to_bytes(8, "little") + text + bytes(8)
    path = tmp_path / "numbers"
    path.write_bytes(KIND + hashlib.sha256(rest).digest() + rest)
    with pytest.raises(UnusableFileError, match=message):
        read(path, KIND)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digit_splits(train=100, validation=20)


HOW = StageSettings(epochs=2, keep="last")


@pytest.fixture(scope="module")
def interrupted(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("interrupted") / "fit.checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(plain_network(), splits, HOW, checkpoint=path, display=Interrupting(step=3))
    return path.read_bytes()


@pytest.mark.fault(
    "disk: a damaged checkpoint of a fit",
    "a warning, and the fit begins anew (its own steps are taken again)",
)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "is damaged: its checksum is wrong"),
        (lambda content: b"", "does not begin with 'bnadapt checkpoint 1'"),
        (lambda content: content[:-9] + bytes(9), "is damaged: its checksum is wrong"),
    ],
)
def test_a_damaged_file_is_told_of_and_the_fit_begins_anew(
    splits: Splits, tmp_path: Path, interrupted: bytes, damage: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "fit.checkpoint"
    path.write_bytes(damage(interrupted))
    stop = Interrupting(step=0)
    with (
        pytest.warns(UserWarning, match=f"fit.checkpoint {message}.*The fit begins anew") as caught,
        pytest.raises(KeyboardInterrupt),
    ):
        train(plain_network(), splits, HOW, checkpoint=path, display=stop)
    assert sum("fit.checkpoint" in str(each.message) for each in caught) == 1
    state = Checkpoint(path, read(path, MAGIC)[0]["identity"]).read()
    assert state is not None
    assert state.step == 0


@pytest.mark.fault(
    "training: a checkpoint of another fit",
    "a warning that names the difference, and the fit begins anew",
)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"how": replace(HOW, learning_rate=0.5)}, "settings"),
        ({"seed": 4}, "seed"),
        ({"batch_size": 25}, "batch_size"),
        ({"class_weights": "balanced"}, "class_weights"),
        ({"network": {"widths": [24, 17]}}, "weights at the start"),
        ({"splits": digit_splits(train=120, validation=20)}, "data"),
    ],
    ids=["rate", "seed", "batch size", "class weights", "network", "data"],
)
def test_the_file_of_another_fit_is_not_gone_on_with(
    splits: Splits, tmp_path: Path, interrupted: bytes, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "fit.checkpoint"
    path.write_bytes(interrupted)
    arguments = {"splits": splits, "how": HOW, **changes}
    network = plain_network(**arguments.pop("network", {}))
    stop = Interrupting(step=0)
    with (
        pytest.warns(UserWarning, match=rf"belongs to another fit: it differs in {message}\. The fit begins"),
        pytest.raises(KeyboardInterrupt),
    ):
        train(
            network, arguments.pop("splits"), arguments.pop("how"), checkpoint=path, display=stop, **arguments
        )


def test_a_state_of_other_shapes_changes_nothing() -> None:
    network = plain_network()
    network.compile("adam")
    before = state_of(network)
    values = [keras.ops.convert_to_numpy(each) for each in network.variables]
    state = State(0, (*values[:-1], np.zeros(3, "float32")))
    with pytest.raises(UnusableFileError, match="the variables of the network have other shapes or types"):
        restore(network, state)
    network.optimizer.build(network.trainable_variables)
    with pytest.raises(UnusableFileError, match="the variables of the optimizer have other shapes or types"):
        restore(network, State(0, tuple(values), (np.zeros(3),)))
    assert state_of(network)[: len(before)] == before


def test_without_a_file_there_is_nothing_to_tell(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Checkpoint(tmp_path / "missing", {}).read() is None
        assert Checkpoint(None, {}).read() is None


@pytest.mark.fault(
    "disk: full while a checkpoint is written",
    "an error; the last state stays whole and readable",
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit to the size of files")
def test_a_full_disk_leaves_the_last_state_whole(splits: Splits, tmp_path: Path) -> None:
    import resource

    path = tmp_path / "fit.checkpoint"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(epoch: Epoch) -> None:
        # Too little for one more state; what is there already stays.
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, limits[1]))

    network = plain_network()
    start = [keras.ops.convert_to_numpy(each).tobytes() for each in network.weights]
    try:
        with pytest.raises(
            StorageError, match=r"fit\.checkpoint cannot be written: File too large\. What was there"
        ):
            train(network, splits, HOW, checkpoint=path, on_epoch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == [path]
    state = Checkpoint(path, read(path, MAGIC)[0]["identity"]).read()
    assert state is not None
    assert state.step == 0
    assert [each.tobytes() for each in state.best] == start


def test_a_place_that_cannot_be_written_to_stops_the_stage(splits: Splits, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.warns(UserWarning, match="cannot be read: Not a directory. The fit begins anew"),
        pytest.raises(StorageError, match=r"fit\.checkpoint cannot be written: "),
    ):
        train(plain_network(), splits, HOW, checkpoint=tmp_path / "file" / "fit.checkpoint")
