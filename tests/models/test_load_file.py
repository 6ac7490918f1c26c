"""Files that are no networks, damaged, or made to use up the machine: refused at once, and with which words."""

import io
import os
import pickle
import re
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnadapt.config import ModelSettings
from bnadapt.errors import ModelError
from bnadapt.models.archive import TIMES_THE_FILE, private_copy
from bnadapt.models.load import load_file, run_code
from bnadapt.models.untrusted import check_configuration
from tests.models.hostile import (
    code_writing,
    described,
    members,
    network,
    saved,
    with_configuration,
    with_layer,
    write,
)

L = keras.layers
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1)).astype("float32")
WEIGHTS = "model.weights.h5"


def refused(path: Path, message: str) -> None:
    before = time.perf_counter()
    with pytest.raises(ModelError, match=message) as error:
        load_file(path)
    assert str(error.value).startswith(f"model.path={path} cannot be loaded: ")
    assert time.perf_counter() - before < 5


def test_a_file_is_loaded(tmp_path: Path) -> None:
    given_network = network()
    loaded = load_file(saved(tmp_path, given_network))
    np.testing.assert_array_equal(loaded(IMAGES), given_network(IMAGES))
    assert not loaded.compiled


def test_a_file_of_another_name_for_messages(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^models:/cat/1 cannot be loaded: it cannot be read: No such file"):
        load_file(tmp_path / "network.keras", name="models:/cat/1")


# What is no file of a network


@pytest.mark.fault(
    "attack: network files empty, of nonsense, HDF5, pickles, of other formats",
    "refused with the reason",
)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("network.keras", b"", "the file is empty; save the network with model.save"),
        (
            "network.keras",
            b"PK\x03\x04 but no archive",
            r"it is no \.keras file, or the end of it is missing; save",
        ),
        ("network.keras", b"nonsense", r"it is no \.keras file; save the network with model.save"),
        (
            "network.keras",
            b"\x89HDF\r\n\x1a\n",
            "it is an HDF5 file, whose code and classes nobody can check; save",
        ),
        (
            "network.h5",
            b"\x89HDF\r\n\x1a\n",
            "it is an HDF5 file, whose code and classes nobody can check; save",
        ),
        ("network.pkl", pickle.dumps({"a": 1}), "it is a pickle, which is a program and is not run; save"),
        ("network.pt", b"PK\x03\x04", r"its name ends in '.pt', not in .keras; save"),
    ],
)
def test_other_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, message)


@pytest.mark.fault(
    "attack: code in an HDF5 file (CVE-2025-9905)",
    "refused; nothing runs",
)
def test_an_h5_file_with_code_cve_2025_9905(tmp_path: Path) -> None:
    marker = tmp_path / "harm-was-done"
    path = tmp_path / "network.h5"
    network(L.Lambda(code_writing(marker))).save(path)
    marker.unlink(missing_ok=True)
    refused(path, "it is an HDF5 file")
    assert not marker.exists()


def test_a_directory_and_a_saved_model(tmp_path: Path) -> None:
    refused(tmp_path, "it is a directory; save the network")
    (tmp_path / "saved_model.pb").touch()
    refused(tmp_path, "it is a SavedModel; save the network")


@pytest.mark.fault(
    "attack: a pipe or a device as a network file",
    "refused within 5 seconds, never read",
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "network.keras"
    os.mkfifo(path)
    refused(path, "it is no regular file but a pipe")


@pytest.mark.fault(
    "attack: a pipe or a device as a network file",
    "refused within 5 seconds, never read",
)
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there are no devices in the file system here")
def test_a_device_is_never_read(tmp_path: Path) -> None:
    refused(Path("/dev/zero"), "it is no regular file but a device")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.chmod(0)
    refused(path, "it cannot be read: Permission denied")


# Archives


@pytest.mark.fault(
    "attack: network files truncated at some forty places",
    "refused",
)
def test_any_truncation_is_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path).read_bytes()
    path = tmp_path / "part.keras"
    for length in {*range(1, len(whole), len(whole) // 40), len(whole) - 1}:
        path.write_bytes(whole[:length])
        refused(path, "no .keras file")


@pytest.mark.fault(
    "attack: a network file with any byte changed",
    "refused, or it loads and does no harm",
)
@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_any_changed_byte_is_refused_or_does_no_harm(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = saved(tmp_path_factory.mktemp("changed"))
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    try:
        load_file(path)
    except ModelError as error:
        assert "cannot be loaded: " in str(error)  # noqa: PT017


@pytest.mark.fault(
    "attack: path traversal and foreign files in a network file",
    "refused; nothing is unpacked",
)
@pytest.mark.parametrize(
    "name",
    [
        "../escaped.txt",
        "assets/../../escaped.txt",
        "/etc/cron.d/escaped",
        "assets\\..\\escaped.txt",
        "C:/escaped.txt",
        "evil.py",
        "model.weights.npz",
        "assets/a:b",
    ],
)
def test_members_that_keras_does_not_write(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    refused(write(path, {**members(path), name: b"x"}), "the archive holds '.*', which Keras does not write")
    assert [each.name for each in tmp_path.iterdir()] == ["network.keras"]


def test_assets_by_plain_names_are_taken(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert load_file(write(path, {**members(path), "assets/layers/words.txt": b"x"})).count_params()


@pytest.mark.fault(
    "attack: links in a network file",
    "refused",
)
def test_links_in_the_archive(tmp_path: Path) -> None:
    path = saved(tmp_path)
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(
        write(path, {**members(path), link: b"/etc/passwd"}),
        "'assets/link' in the archive is no regular file",
    )


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", "{}")
    refused(path, "holds 'config.json' twice")


@pytest.mark.parametrize("missing", ["config.json", WEIGHTS])
def test_missing_members(missing: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    contents = members(path)
    del contents[missing]
    refused(write(path, contents), f"the archive holds no {missing}, so it is no network of Keras 3")


def test_unusual_compression(tmp_path: Path) -> None:
    path = saved(tmp_path)
    contents = members(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    refused(path, "encrypted or compressed in an unusual way")


def test_an_archive_that_another_program_compressed_is_taken(tmp_path: Path) -> None:
    path = saved(tmp_path)
    contents = members(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    assert load_file(path).count_params()


@pytest.mark.fault(
    "attack: a zip bomb",
    "refused within 5 seconds",
)
def test_a_zip_bomb(tmp_path: Path) -> None:
    path = saved(tmp_path)
    contents = members(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        with archive.open("assets/bomb", "w") as member:
            for _ in range(100):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 200_000
    refused(path, rf"would unpack to 10\d,\d+,\d+ bytes; .*\({TIMES_THE_FILE} times the file and 64 MiB\)")


@pytest.mark.fault(
    "attack: a file in the archive longer than it says",
    "refused",
)
def test_a_member_that_is_longer_than_it_says(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo(WEIGHTS).file_size
    path.write_bytes(content.replace(size.to_bytes(4, "little"), (size // 2).to_bytes(4, "little")))
    refused(path, "damaged")


# Configurations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "its config.json is no JSON: Expecting value"),
        (b"{", "its config.json is no JSON"),
        (b"\xff\xfe{}", "its config.json is no JSON"),
        (b"[]", "describes no network but a list"),
        (b'"Sequential"', "describes no network but a str"),
        (b"[" * 100_000, "its config.json is nested too deeply"),
        (b'{"a":' * 100_000, "its config.json is nested too deeply"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "its config.json is no JSON: Exceeds the limit"),
        (
            b'{"module": "keras.layers", "class_name": "ReLU", "config": {}}',
            "describes a ReLU, which is no network",
        ),
        (b"{}", "its config.json describes no network"),
    ],
)
def test_configurations_that_are_none(text: bytes, message: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    refused(write(path, {**members(path), "config.json": text}), message)


def test_a_configuration_that_is_too_long(tmp_path: Path) -> None:
    path = saved(tmp_path)
    long = b" " * (33 << 20) + b"{}"
    refused(write(path, {**members(path), "config.json": long}), "its config.json has 34,603,010 bytes")


def test_networks_nested_too_deep_for_keras(tmp_path: Path) -> None:
    nested = described("ReLU")
    for _ in range(80):
        nested = described("Sequential", "keras", layers=[nested])
    with_layer(path := saved(tmp_path), nested)
    refused(path, "nested more than 200 levels deep")


@pytest.mark.fault(
    "attack: layers that want far more memory than the file explains",
    "refused within 5 seconds",
)
@pytest.mark.parametrize(
    "layer",
    [
        described("Dense", units=10**12),
        described("Conv2D", filters=50_000, kernel_size=[1000, 1000], padding="same"),
        described("Embedding", input_dim=10**9, output_dim=10**4),
    ],
    ids=lambda layer: layer["class_name"],
)
def test_layers_that_want_more_memory_than_the_file_explains(layer: dict[str, Any], tmp_path: Path) -> None:
    path = with_layer(saved(tmp_path), layer)
    refused(path, r"its layer 'hostile' asks for a weight of shape \(.*, and the file holds no such weights")
    assert keras.layers.Dense(3)(IMAGES).shape == (6, 8, 8, 3)  # and everything is as it was


# HDF5


def with_weights(path: Path, change: Callable[[h5py.File], object]) -> Path:
    contents = members(path)
    held = io.BytesIO(contents[WEIGHTS])
    with h5py.File(held, "a") as file:
        change(file)
    return write(path, {**contents, WEIGHTS: held.getvalue()})


PLACE = "layers/conv2d/vars/0"


def replace(file: h5py.File, value: Any) -> None:
    del file[PLACE]
    file[PLACE] = value


@pytest.mark.fault(
    "attack: links in the weights to other files",
    "refused",
)
@pytest.mark.parametrize(
    "link", [h5py.ExternalLink("/etc/passwd", "/x"), h5py.SoftLink("/layers")], ids=["external", "soft"]
)
def test_links_in_the_weights(link: Any, tmp_path: Path) -> None:
    assert PLACE in h5py.File(io.BytesIO(members(saved(tmp_path))[WEIGHTS]))
    path = with_weights(saved(tmp_path), lambda file: replace(file, link))
    refused(path, r"model\.weights\.h5 holds a link at /layers/conv2d/vars/0, which Keras does not write")


@pytest.mark.fault(
    "attack: weights that lie in other files (CVE-2026-1669)",
    "refused",
)
def test_values_that_lie_in_other_files_cve_2026_1669(tmp_path: Path) -> None:
    def external(file: h5py.File) -> None:
        del file[PLACE]
        file.create_dataset(PLACE, (3, 3, 1, 2), "float32", external=[("/etc/passwd", 0, 72)])

    refused(
        with_weights(saved(tmp_path), external), "the values of .*/0 in model.weights.h5 lie in other files"
    )


def test_virtual_data(tmp_path: Path) -> None:
    def virtual(file: h5py.File) -> None:
        del file[PLACE]
        layout = h5py.VirtualLayout((100,), "uint8")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (100,))
        file.create_virtual_dataset(PLACE, layout)

    refused(with_weights(saved(tmp_path), virtual), "lie in other files, which are not read")


@pytest.mark.fault(
    "attack: weights that claim to be enormous (CVE-2026-0897)",
    "refused within 5 seconds",
)
def test_weights_that_claim_to_be_enormous_cve_2026_0897(tmp_path: Path) -> None:
    def enormous(file: h5py.File) -> None:
        del file[PLACE]
        file.create_dataset(PLACE, (1 << 40,), "float32", chunks=(1024,), compression="gzip")

    refused(with_weights(saved(tmp_path), enormous), "declares more than .* bytes of weights")


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    def words(file: h5py.File) -> None:
        del file[PLACE]
        file.create_dataset(PLACE, data=["a"], dtype=h5py.string_dtype())

    refused(with_weights(saved(tmp_path), words), "holds object values, which are no numbers")


def test_a_group_that_holds_itself(tmp_path: Path) -> None:
    def circle(file: h5py.File) -> None:
        file["layers/circle"] = file["layers"]

    assert load_file(with_weights(saved(tmp_path), circle)).count_params()


def test_half_precision_weights_are_plain_numbers(tmp_path: Path) -> None:
    half = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(2, 3, dtype="bfloat16")])
    assert load_file(saved(tmp_path, half)).layers[0].kernel.dtype == "bfloat16"


# What the user allows


def test_lambda_layers_where_the_user_trusts_them(tmp_path: Path) -> None:
    path = saved(tmp_path, network(L.Lambda(lambda x: x * 2)))
    refused(path, "or, where you trust the file, model.allow_lambda=true")
    assert load_file(path, ModelSettings(allow_lambda=True))(IMAGES).shape == (6, 72)


@pytest.mark.fault(
    "attack: other code beside Lambda layers that the user trusts",
    "refused",
)
def test_trusting_lambdas_trusts_nothing_else(tmp_path: Path) -> None:
    path = with_layer(saved(tmp_path), described("TFSMLayer", filepath=str(tmp_path)))
    with pytest.raises(ModelError, match="holds a layer TFSMLayer, which loads code or files"):
        load_file(path, ModelSettings(allow_lambda=True))


CODE = """
import keras

@keras.saving.register_keras_serializable("{package}")
class Twice(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2

open({marker!r}, "a").write("x")
"""


def test_code_of_the_users_own_is_run_once_and_registers_what_the_network_needs(tmp_path: Path) -> None:
    marker, code = tmp_path / "times", tmp_path / "twice.py"
    code.write_text(CODE.format(package="once", marker=str(marker)))
    path = with_layer(saved(tmp_path), described("Twice", "twice", registered="once>Twice"))
    refused(path, "needs the class Twice of twice, .* name the Python code .*: model.code=FILE.py")
    assert not marker.exists()
    for _ in range(2):
        assert type(load_file(path, ModelSettings(code=str(code))).layers[-2]).__name__ == "Twice"
    assert marker.read_text() == "x"


def test_code_that_is_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_of_layers.py").write_text(CODE.format(package="module", marker=os.devnull))
    monkeypatch.syspath_prepend(str(tmp_path))
    path = with_layer(saved(tmp_path), described("Twice", "x", registered="module>Twice"))
    assert load_file(path, ModelSettings(code="module_of_layers")).count_params()


def test_a_saved_network_names_the_module_that_its_author_would_import(tmp_path: Path) -> None:
    code = tmp_path / "layers_by_me.py"
    code.write_text(CODE.format(package="by_me", marker=os.devnull))
    path = with_layer(saved(tmp_path), described("Twice", "x", registered="by_me>Twice"))
    again = tmp_path / "again.keras"
    load_file(path, ModelSettings(code=str(code))).save(again)
    text = members(again)["config.json"].decode()
    assert '"module": "layers_by_me"' in text
    assert str(tmp_path) not in text
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import keras, layers_by_me as own; " + (
        f"assert type(keras.saving.load_model({str(again)!r}).layers[-2]) is own.Twice"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_code_never_takes_the_name_of_another_module(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "layers_of_two.py", tmp_path / "b" / "layers_of_two.py"
    library = tmp_path / "colorsys.py"  # a module of Python that nothing here has imported
    for file in (first, second, library):
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"PLACE = {file.parent.name!r}")
        run_code(str(file))
    named = [name for name in sys.modules if name.startswith(("layers_of_two", "colorsys_"))]
    assert "layers_of_two" in named
    assert len(named) == 3
    assert all(re.fullmatch(r"layers_of_two|(layers_of_two|colorsys)_[0-9a-f]{12}", name) for name in named)
    assert not hasattr(sys.modules.get("colorsys"), "PLACE")
    assert sys.modules["layers_of_two"].PLACE == "a"


@pytest.mark.fault(
    "attack: a file exchanged after it was looked over",
    "what was looked over is what is loaded; nothing of the other runs",
)
def test_a_file_that_is_exchanged_between_the_check_and_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = saved(tmp_path / "other", network(L.Dense(7))).read_bytes()
    path = saved(tmp_path)

    def check_and_exchange(*given: Any, **more: Any) -> None:
        check_configuration(*given, **more)
        path.write_bytes(other)

    monkeypatch.setattr("bnadapt.models.load.check_configuration", check_and_exchange)
    assert load_file(path).output_shape == (None, 72)
    assert path.read_bytes() == other


@pytest.mark.parametrize("why", ["too large", "no room"])
def test_a_file_that_is_not_copied_is_loaded_itself(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    if why == "too large":
        monkeypatch.setattr("bnadapt.models.archive.LARGEST_COPY", path.stat().st_size - 1)
        assert load_file(path).output_shape == (None, 72)
        return
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with private_copy(path) as copy:
            assert copy == path
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_private_copy_is_gone_afterwards_and_nobody_else_s(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with private_copy(path) as copy:
        assert copy != path
        assert copy.read_bytes() == path.read_bytes()
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert not copy.parent.exists()


def test_the_cause_of_what_keras_refuses_in_one_line(tmp_path: Path) -> None:
    path = with_layer(saved(tmp_path), described("Dense", units=-3))
    with pytest.raises(ModelError) as error:
        load_file(path)
    reason = str(error.value).removeprefix(f"model.path={path} cannot be loaded: ")
    assert reason == (
        "Received an invalid value for `units`, expected a positive integer. Received: units=-3"
    )
    path = with_layer(saved(tmp_path), described("Dense", units="x\x1b" * 1000))
    with pytest.raises(ModelError) as error:
        load_file(path)
    reason = str(error.value).removeprefix(f"model.path={path} cannot be loaded: ")
    assert reason.endswith(" ...")
    assert len(reason) == 300
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("code", "text", "message"),
    [
        ("missing.py", None, "model.code=.*missing.py: there is no such file"),
        ("no_such_module", None, "model.code=no_such_module: there is no module no_such_module; give a file"),
        ("broken.py", "1 / 0", "model.code=.*broken.py fails with ZeroDivisionError: division by zero"),
        ("broken.py", "class", "model.code=.*broken.py fails with SyntaxError"),
        (
            "other.py",
            "x = 1",
            "needs the class Twice of x, which the Python code of model.code does not register",
        ),
    ],
)
def test_code_that_does_not_help(code: str, text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / code).write_text(text)
    path = with_layer(saved(tmp_path), described("Twice", "x", registered="nobody>Twice"))
    place = str(tmp_path / code) if code.endswith(".py") else code
    with pytest.raises(ModelError, match=message):
        load_file(path, ModelSettings(code=place))


@pytest.mark.fault(
    "attack: a Lambda layer beside code that the user trusts",
    "refused: only what the code registers is allowed",
)
def test_code_allows_only_what_it_registers(tmp_path: Path) -> None:
    code = tmp_path / "plain.py"
    code.write_text("x = 1")
    path = with_layer(
        saved(tmp_path), described("Lambda", function={"class_name": "__lambda__", "config": {}})
    )
    with pytest.raises(ModelError, match="Lambda"):
        load_file(path, ModelSettings(code=str(code)))


def test_a_class_that_keras_no_longer_has(tmp_path: Path) -> None:
    path = with_configuration(
        saved(tmp_path), lambda it: it["config"]["layers"][1].update(class_name="Conv9D")
    )
    refused(path, r"it needs keras.layers.Conv9D, which this Keras \(3.* does not have")


# The command


COMMAND = [sys.executable, "-m", "bnadapt", "model=file"]


def said(*arguments: str, cwd: Path) -> tuple[int, str]:
    """What the command answers, before TensorFlow has started."""
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert "starting TensorFlow" not in done.stdout
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stderr.split())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_the_command_never_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "network.keras")
    code, errors = said("model.path=network.keras", cwd=tmp_path)
    assert (
        "bnadapt: model.path=network.keras cannot be loaded: it is no regular file but a pipe; save" in errors
    )
    assert code == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.path=."], "model.path=. cannot be loaded: it is a directory"),
        (
            ["model.path=/dev/zero"],
            "model.path=/dev/zero cannot be loaded: it is no regular file but a device",
        ),
        (["model.path=empty.keras"], "model.path=empty.keras cannot be loaded: the file is empty"),
        (["model.path=missing.keras"], "model.path=missing.keras: there is no such file"),
        (["model.path=whole.keras", "model.code=missing.py"], "model.code=missing.py: there is no such file"),
        (["model=mlp", "model.allow_lambda=true"], "model.allow_lambda=true is used by model=file only"),
        (
            ["model=mlp", "model.code=x.py"],
            "model.code=x.py is used by model=file only, not by model.kind=mlp",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_the_command_refuses_before_it_starts_tensorflow(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.keras").touch()
    saved(tmp_path).rename(tmp_path / "whole.keras")
    code, errors = said(*arguments, cwd=tmp_path)
    assert message in errors
    assert code == 1
