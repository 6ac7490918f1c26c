"""Files of networks that were tampered with: made by Keras, then changed as an attacker would."""

import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import keras

Configuration = dict[str, Any]


def network(*last: keras.Layer) -> keras.Model:
    """A small Sequential network over images."""
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3, name="conv"), *last, keras.layers.Flatten()]
    )


def saved(directory: Path, model: keras.Model | None = None) -> Path:
    """A ``.keras`` file of a network, of a small plain one if none is given."""
    path = directory / "network.keras"
    if model is None:
        path.write_bytes(_plain())
    else:
        model.save(path)
    return path


@cache
def _plain() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        return saved(Path(directory), network()).read_bytes()


def members(path: Path) -> dict[str, bytes]:
    """The contents of an archive by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, contents: Mapping[str | zipfile.ZipInfo, bytes]) -> Path:
    """An archive of these members, in this order."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def with_configuration(path: Path, change: Callable[[Configuration], object]) -> Path:
    """The same file with its configuration changed in place by a function."""
    contents = members(path)
    configuration = json.loads(contents["config.json"])
    change(configuration)
    return write(path, {**contents, "config.json": json.dumps(configuration).encode()})


def with_layer(path: Path, layer: Configuration) -> Path:
    """The same Sequential network with one more layer before its last one."""
    return with_configuration(path, lambda it: it["config"]["layers"].insert(-1, layer))


def described(
    name: str, module: str | None = "keras.layers", registered: str | None = None, **config: Any
) -> Configuration:
    """A layer as Keras describes it in a file."""
    return {
        "module": module,
        "class_name": name,
        "config": {"name": "hostile", **config},
        "registered_name": registered,
    }


def function(module: str, name: str, registered: str = "function") -> Configuration:
    """A function as Keras describes it in a file."""
    return {"module": module, "class_name": "function", "config": name, "registered_name": registered}


def code_writing(marker: Path) -> Callable[[Any], Any]:
    """A function that makes a file when it is called, and returns what it was given."""
    namespace: dict[str, Any] = {}
    exec(f"def harm(x):\n    open({str(marker)!r}, 'w').close()\n    return x", namespace)
    harm: Callable[[Any], Any] = namespace["harm"]
    return harm
