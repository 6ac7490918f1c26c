"""What is wrong with a command, in bnadapt's words."""

import difflib
import re
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import bnadapt.config
from bnadapt.errors import BnadaptError

FAILED, MISTAKE_ON_THE_COMMAND_LINE, INTERRUPTED, TERMINATED = 1, 2, 130, 143

# By the class of their settings: what entries are, their group, and what a file of it holds.
_IN_FILES = {
    "StageSettings": ("a stage", "schedule", "a schedule"),
    "RangeSettings": ("a range", "search", "a space"),
    "ArmSettings": ("an arm", "comparison", "arms"),
    "ArmStageSettings": ("a stage of an arm", "comparison", "arms"),
}


def print_error(error: Exception, with_traceback: bool) -> None:
    """Print one message on the error stream, after Python's traceback where that is wanted."""
    if with_traceback:
        traceback.print_exception(error)
    text = "\n".join([_explain(error).strip(), *_notes(error)])
    print("bnadapt: " + text.replace("\n", "\n  "), file=sys.stderr)


def print_stop(word: str, stop: BaseException) -> None:
    """Say that the process was stopped, and how to go on where something was begun."""
    print("\n  ".join([f"\nbnadapt: {word}", *_notes(stop)]), file=sys.stderr)


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def exit_code(error: Exception) -> int:
    """What the process ends with because of an error."""
    composing = isinstance(error, (HydraException, OmegaConfBaseException))
    return MISTAKE_ON_THE_COMMAND_LINE if composing and not _file_of(error) else FAILED


def _file_of(error: Exception) -> str | None:
    """The configuration file that an error of composition is about; None where an override is at fault."""
    match = re.match(r"In '([^']+)'", str(error))
    return match[1] if match and not isinstance(error, MissingConfigException) else None


def _explain(error: Exception) -> str:
    """One message: what was wrong, what was received, what would work."""
    if isinstance(error, BnadaptError):
        return str(error)
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {error}"
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: there is no such option; choose one of {_choices(option, error.options)}"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_composition(error)
    return (
        f"unexpected {type(error).__name__}: {error}\n"
        "This is a defect of bnadapt or of a library below it; traceback=true prints where."
    )


def _explain_composition(error: Exception) -> str:
    text = f"{error}\n{error.__cause__ or ''}"
    key = re.search(r"full_key: (\S+)", text)
    place = f"{_file_of(error)}.yaml: " if _file_of(error) else ""
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: cannot be read as key=value ({str(error).splitlines()[0]}); quote what holds "
            "brackets, spaces or commas: 'placement.include=[\"conv.*\"]'"
        )
    if "is not a ListConfig" in text and key is not None:
        return f"{place}{key[1]}: must be a list; write {key[1]}=[...]"
    if key is None:
        return place + re.split(r"\s*(?:\nSee https|\n\s*Config search path)", str(error))[0]
    entry = re.search(r"is not a subclass of (\w+)", text)
    if entry is not None and entry[1] in _IN_FILES:
        what, group, whole = _IN_FILES[entry[1]]
        return (
            f"{what} cannot be added on the command line; put {whole} of your own into a file, "
            f"mine/{group}/NAME.yaml, and choose it: --config-dir mine {group}=NAME"
        )
    unknown = re.search(r"Key '([^']*)' (?:not in '(\w+)'|is not in struct)", text)
    if unknown is None:
        problem = next(
            line
            for line in reversed(text.splitlines())
            if line.strip() and not re.match(r"\s+\w+(_\w+)?[:=]", line)
        )
        return f"{place}{key[1]}: {problem.strip()}"
    parent = key[1].rpartition(".")[0]
    schema = getattr(bnadapt.config, unknown[2] or "", None)
    known = [each.name for each in fields(schema)] if schema else []
    if not known and isinstance(error.__cause__, OmegaConfBaseException):
        node = error.__cause__.parent_node
        known = [str(name) for name in node] if isinstance(node, DictConfig) else []
    return (
        f"{place}{key[1]}: there is no such setting; {parent or 'at the top level'} "
        f"{'has' if parent else 'there are'} {_choices(unknown[1], known)}"
    )


def _choices(received: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(received, known, n=1)
    return ", ".join(known) + (f" (did you mean {close[0]}?)" if close else "")
