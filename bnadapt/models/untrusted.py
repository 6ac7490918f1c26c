"""The configuration of a network from outside, looked over before Keras builds anything of it.

Keras looks classes and functions up by the names in the file. Some of those load files, open addresses or run code
when they are built (CVE-2024-3660, CVE-2025-1550, CVE-2025-8747, CVE-2025-9906, CVE-2025-12058, CVE-2026-1462). Here
every name must lead to what a network is made of: Keras' own layers, operations, activations, initializers and the
like, read off Keras itself, without those that take code, files or addresses.
"""

import builtins
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any, TypeGuard

import keras

from bnadapt.errors import ModelError

DEEPEST = 200  # levels; a network nested within networks ten deep has 60
# Parameters by which a layer takes code, or something to read.
_CODE_OR_FILES = frozenset({"function", "filepath", "module", "call_fn", "init_fn", "fn"})
_VOCABULARIES = frozenset({"vocabulary", "idf_weights"})  # these may be a list of words as well as a file
# Public namespaces of Keras, and whether functions of them may be named, too.
_NAMESPACES = {
    "layers": False,
    "initializers": True,
    "regularizers": True,
    "constraints": True,
    "activations": True,
    "losses": True,
    "metrics": True,
    "optimizers": False,
    "optimizers.schedules": False,
    "dtype_policies": False,
    "quantizers": False,
    "ops": True,
    "ops.image": True,
    "ops.linalg": True,
    "ops.nn": True,
    "ops.numpy": True,
}
_GATES = frozenset({"get", "deserialize", "serialize"})  # build anything from a description
# What networks are made of and has no public name, by the module that Keras writes: operations, Functional networks,
# and layers of keras.applications, which Keras finds by module and name.
_UNNAMED: dict[str, type] = {
    "keras.src.ops.": keras.Operation,
    "keras.src.models.": keras.Model,
    "keras.src.applications.": keras.layers.Layer,
}
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"})
_LAMBDA = "__lambda__"
# TensorFlow names what a layer computes after it, and takes no other letters; the first of all is stricter.
_NAME, _OUTERMOST = re.compile(r"[A-Za-z0-9_.>\-]*"), re.compile(r"([A-Za-z0-9.][A-Za-z0-9_.>\-]*)?")


def check_configuration(
    configuration: Mapping[str, Any], *, allow_lambda: bool = False, allow_custom: bool = False
) -> None:
    """Refuse a configuration that names anything but parts of networks; nothing is built or imported.

    Args:
        configuration: As Keras wrote it into ``config.json``.
        allow_lambda: Whether the user trusts the file's Lambda layers.
        allow_custom: Whether classes and functions may be used that Python code has registered with Keras.

    Raises:
        ModelError: names what is not allowed, and what would work.
    """
    # How a network was compiled is never read: networks are loaded without.
    top = {key: value for key, value in configuration.items() if key != "compile_config"}
    for entry in list(_entries(top)):  # all of them first, because that checks the depth
        _check_entry(entry, allow_lambda, allow_custom)
        _check_name(entry, outermost=entry is top)


def _entries(top: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every description of an object in a configuration, outermost first, without recursion."""
    waiting: list[tuple[Any, int]] = [(top, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ModelError(f"its configuration is nested more than {DEEPEST} levels deep")
        if isinstance(value, Mapping):
            if "class_name" in value:
                yield value
            waiting += [(each, depth + 1) for each in value.values()]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]


def _check_entry(entry: Mapping[str, Any], allow_lambda: bool, allow_custom: bool) -> None:
    name, module, registered = entry["class_name"], entry.get("module"), entry.get("registered_name")
    inner = entry.get("config")
    if isinstance(name, str) and name in _VALUES:
        return
    if name == _LAMBDA:
        if not allow_lambda:
            raise ModelError(_LAMBDA_REFUSED.format("a function of its own"))
        return
    what = "function" if name == "function" else "class"
    if what == "function":
        name = inner
    if (
        not isinstance(name, str)
        or not isinstance(module, str | None)
        or not isinstance(registered, str | None)
        or not f"{name}{module}".isprintable()
    ):
        raise ModelError(f"its configuration describes an object by {str(name)[:80]!r}, which is no name")
    if _registered(name) or _registered(registered):
        if not allow_custom:
            raise ModelError(_custom_refused(what, name, module, allow_custom))
        return
    found = _resolve(module, name)
    if found is keras.layers.Lambda:
        if not allow_lambda:
            label = inner.get("name") if isinstance(inner, Mapping) else None
            raise ModelError(_LAMBDA_REFUSED.format(f"the Lambda layer {str(label)!r}"))
    elif found is None or id(found) not in _allowed():
        raise ModelError(_refused(what, name, module, found, allow_custom))
    _check_inner(name, inner if isinstance(inner, Mapping) else {})
    for node in _list(entry.get("inbound_nodes")):
        if isinstance(node, Mapping) and not _holds_tensor(node):
            raise ModelError(
                f"its configuration calls {name} on nothing that the network computes, when it is loaded"
            )


def _check_name(entry: Mapping[str, Any], outermost: bool) -> None:
    """Refuse names with which TensorFlow runs nothing, and those that no terminal or report could show as they are."""
    inner, kind = entry.get("config"), _kind(entry)
    for name in (entry.get("name"), inner.get("name") if isinstance(inner, Mapping) else None):
        if name is None:
            continue
        if not isinstance(name, str):
            raise ModelError(f"its configuration calls an object {ascii(name)[:80]}, which is no name")
        if not name.isprintable():
            raise ModelError(
                f"it has a name with control characters or others that cannot be shown, {_escaped(name)}; {_RENAME}"
            )
        # Inputs and operations compute nothing under their own name.
        named = inspect.isclass(kind) and issubclass(kind, keras.layers.Layer)
        if (
            named
            and kind is not keras.layers.InputLayer
            and not (_OUTERMOST if outermost else _NAME).fullmatch(name)
        ):
            raise ModelError(
                f"its {'network' if outermost else 'layer'} is called {_escaped(name)}, under which TensorFlow runs "
                f"nothing; {_RENAME}"
            )


_RENAME = (
    "names are made of letters from a to z, digits, and the characters _ . - >, the network's beginning with a letter "
    "or digit. Rename it and save it again"
)


def _kind(entry: Mapping[str, Any]) -> Any:
    registered = entry.get("registered_name")
    own = keras.saving.get_registered_object(registered) if isinstance(registered, str) else None
    module, name = entry.get("module"), entry["class_name"]
    return own if own is not None or not isinstance(name, str) else _resolve(module, name)


def _escaped(name: str) -> str:
    return ascii(name) if len(name) <= 80 else f"{name[:80]!a} ..."


def _resolve(module: str | None, name: str) -> Any:
    """What Keras would find by a module and a name, of what is imported already; None where there is nothing."""
    if module == "builtins":
        homes = [_namespace(path) for path, functions in _NAMESPACES.items() if functions]
        found = [vars(home)[name] for home in homes if name in vars(home)]
        return next((each for each in found if id(each) not in _allowed()), found[0] if found else None)
    if module is None or module.partition(".")[0] != "keras":
        return None
    home = sys.modules.get(module)
    if home is None or not isinstance(home, ModuleType):
        return None
    found_here = vars(home).get(name)
    for prefix, kind in _UNNAMED.items():
        if module.startswith(prefix) and _is_own(found_here, kind, module):
            return found_here if takes_code_or_files(found_here) else kind
    return found_here


def _is_own(value: Any, kind: type, module: str) -> TypeGuard[type]:
    return isinstance(value, type) and issubclass(value, kind) and value.__module__ == module


@cache
def _allowed() -> frozenset[int]:
    """The identities of all classes and functions of Keras that the description of a network may name."""
    found = {id(each) for each in (keras.Sequential, keras.random.SeedGenerator, *_UNNAMED.values())}
    for path, functions in _NAMESPACES.items():
        for name, each in vars(_namespace(path)).items():
            if name.startswith("_") or name in _GATES:
                continue
            is_part = not takes_code_or_files(each) if inspect.isclass(each) else functions
            if is_part and (inspect.isclass(each) or inspect.isfunction(each)):
                found.add(id(each))
    return frozenset(found)


def takes_code_or_files(kind: type) -> bool:
    """Whether a layer's constructor takes code or the place of a file; what else does is no part of networks."""
    if not issubclass(kind, keras.layers.Layer):
        return False
    return bool(_CODE_OR_FILES & set(inspect.signature(kind.__init__).parameters))  # type: ignore[misc]


def _namespace(path: str) -> ModuleType:
    home: Any = keras
    for part in path.split("."):
        home = getattr(home, part)
    assert isinstance(home, ModuleType)
    return home


def _registered(name: str | None) -> bool:
    return name is not None and keras.saving.get_registered_object(name) is not None


def _check_inner(name: str, inner: Mapping[str, Any]) -> None:
    """Refuse words that stand where a layer would read a file or an address of that name."""
    for key in _VOCABULARIES & set(inner):
        if isinstance(inner[key], str):
            raise ModelError(
                f"its layer {name} reads {key} from {inner[key]!r} when it is loaded; save the network with the words "
                "themselves in it"
            )


def _holds_tensor(node: Any) -> bool:
    if isinstance(node, Mapping):
        return node.get("class_name") == "__keras_tensor__" or any(map(_holds_tensor, node.values()))
    return isinstance(node, list) and any(map(_holds_tensor, node))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


_LAMBDA_REFUSED = (
    "it holds {}, which runs code of whoever made the file; use a layer of Keras instead, or, where you trust the "
    "file, model.allow_lambda=true"
)


def _refused(what: str, name: str, module: str | None, found: Any, code_was_run: bool) -> str:
    if found is None:
        if module is not None and module.partition(".")[0] == "keras":
            return f"it needs {module}.{name}, which this Keras ({keras.__version__}) does not have"
        return _custom_refused(what, name, module, code_was_run)
    if inspect.isclass(found) and takes_code_or_files(found):
        return (
            f"it holds a layer {name}, which loads code or files when it is built; no setting allows that. Build the "
            "network of other layers of Keras"
        )
    return f"it names {module}.{name}, which is no part of a network; the file may have been made to do harm"


def _custom_refused(what: str, name: str, module: str | None, code_was_run: bool) -> str:
    if module is not None and _is_pythons(module, name):
        return (
            f"it names {module}.{name}, which is no part of a network; the file may have been made to do harm"
        )
    needs = f"it needs the {what} {name}{f' of {module}' if module else ''}"
    if code_was_run:
        return (
            f"{needs}, which the Python code of model.code does not register; decorate the {what} with "
            "@keras.saving.register_keras_serializable() under the package that the network was saved with"
        )
    return (
        f"{needs}, which is not Keras' own; build the network of Keras' layers as a Sequential or Functional model "
        f"(subclassed models cannot be rewritten), or name the Python code that registers the {what}, which is then "
        "run: model.code=FILE.py"
    )


def _is_pythons(module: str, name: str) -> bool:
    # Keras writes functions of anybody's as those of ``builtins``.
    if module == "builtins":
        return hasattr(builtins, name)
    return module.partition(".")[0] in sys.stdlib_module_names
