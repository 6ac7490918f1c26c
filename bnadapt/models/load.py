"""Networks loaded from files, every one of which is looked over before Keras sees it."""

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from bnadapt.config import ModelSettings
from bnadapt.errors import ModelError
from bnadapt.models.archive import private_copy, read_archive
from bnadapt.models.untrusted import check_configuration

_NO_WORD = r"\W"
_LONGEST_REASON = 300  # characters
_NUMBERS_MORE = 1 << 20  # beside twice what is stored: seeds, and what quantized layers unpack


def load_file(path: Path, trusting: ModelSettings | None = None, *, name: str | None = None) -> keras.Model:
    """The network in a ``.keras`` file, not compiled; nothing in the file is run.

    Args:
        path: Of the file.
        trusting: What the user trusts: ``allow_lambda`` loads Lambda layers, which run code out of the file;
            ``code`` is Python code that is run, and may register classes with Keras. None: nothing.
        name: What messages call the file; None: its path, as the setting ``model.path``.

    Raises:
        ModelError: the file is not a Keras network, is damaged, would load or run something, or needs code that
            is not there.
    """
    trusting, name = trusting or ModelSettings(), name or f"model.path={path}"
    try:
        if trusting.code is not None:
            run_code(trusting.code)
        with private_copy(path) as copy:
            contents = read_archive(copy)
            check_configuration(
                contents.configuration,
                allow_lambda=trusting.allow_lambda,
                allow_custom=trusting.code is not None,
            )
            with _weights_up_to(2 * contents.stored + _NUMBERS_MORE):
                network = keras.saving.load_model(copy, compile=False, safe_mode=not trusting.allow_lambda)
        if not isinstance(network, keras.Model):
            raise ModelError(f"it describes a {type(network).__name__}, which is no network")
        return network
    except ModelError as error:
        raise ModelError(f"{name} cannot be loaded: {error}") from error
    except Exception as error:  # Keras raises whatever the reader below it raised
        raise ModelError(f"{name} cannot be loaded: {_reason(str(error))}") from error


def run_code(code: str) -> None:
    """Run the Python code that registers a network's classes with Keras: a file, or a module that can be imported.

    A file is run once in a process, however often networks are loaded. It becomes a module by its own name, as if it
    had been imported, so that networks saved later name the classes as their author would import them.

    Raises:
        ModelError: there is no such code, or it raised an error.
    """
    try:
        if not code.endswith(".py"):
            importlib.import_module(code)
            return
        file = Path(code).absolute()
        name = _module_name(file)
        if name in sys.modules:
            return
        described = importlib.util.spec_from_file_location(name, file)
        assert described is not None
        assert described.loader is not None
        module = importlib.util.module_from_spec(described)
        sys.modules[name] = module
        try:
            described.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    except FileNotFoundError as error:
        raise ModelError(f"model.code={code}: there is no such file") from error
    except ModuleNotFoundError as error:
        raise ModelError(
            f"model.code={code}: there is no module {error.name}; give a file such as layers.py, or a module that "
            "Python can import"
        ) from error
    except Exception as error:  # it is the user's program
        raise ModelError(f"model.code={code} fails with {type(error).__name__}: {error}") from error


def _module_name(file: Path) -> str:
    """The name of the file, or, where another module has it, one with a digest of the file's contents."""
    if file.stem.isidentifier():
        found = sys.modules.get(file.stem)
        if found is not None:
            origin = getattr(found, "__file__", None)
        else:
            described = importlib.util.find_spec(file.stem)
            if described is None:
                return file.stem
            origin = described.origin
        if origin is not None and Path(origin).absolute() == file:
            return file.stem
    # Nothing of the path: the name is written into every network that is saved later.
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return f"{re.sub(_NO_WORD, '_', file.stem)}_{digest}"


@contextmanager
def _weights_up_to(limit: int) -> Iterator[None]:
    """Let layers make so many numbers of weights in all while the block lasts, and refuse to make more.

    A few bytes of configuration can ask for more weights than there is memory, before Keras looks whether the
    file holds them. All of Keras' layers make their weights by the one method that is exchanged here.
    """
    made = 0
    original = keras.layers.Layer.add_weight

    def add_weight(layer: keras.layers.Layer, shape: Any = None, *rest: Any, **more: Any) -> Any:
        nonlocal made
        numbers = 1
        for length in (shape,) if isinstance(shape, int) else shape or ():
            numbers *= length
        made += numbers
        if made > limit:
            raise ModelError(
                f"its layer {layer.name!r} asks for a weight of shape {tuple(shape or ())}, and the file holds no such "
                "weights: it is damaged, or made to use up memory"
            )
        return original(layer, shape, *rest, **more)

    keras.layers.Layer.add_weight = add_weight
    try:
        yield
    finally:
        keras.layers.Layer.add_weight = original


def _reason(error: str) -> str:
    """Why Keras did not load a file that looked right."""
    missing = re.search(r"Could not locate class '(\w+)'", error)
    if missing:
        return f"it needs the class {missing[1]}, which is not Keras' own"
    # Keras' first line says which object it was, with the whole configuration after it; the cause comes last.
    opening, _, cause = error.strip().rpartition("Exception encountered:")
    words = " ".join((cause if opening else next(iter(cause.splitlines()), "")).split())
    printable = "".join(letter for letter in words if letter.isprintable())
    if len(printable) > _LONGEST_REASON:
        printable = printable[: _LONGEST_REASON - 4] + " ..."
    return printable or "no reason was given"
