"""The house rules that a machine can check: who imports whom, and what stands where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# Imports run downwards only; what stands on one floor may not import its neighbours' floor above.
FLOORS = [
    {"errors", "interruption", "locking", "startup"},
    {"files", "secrets"},
    {"array_file", "journal"},
    {"config"},
    {"setting_keys"},
    {"checks"},
    {"stages"},
    {"surgery"},
    {"normalization"},
    {"evaluation", "data", "models"},
    {"training", "report", "tracking"},
    {"artifacts", "identity", "rehearsal"},
    {"start"},
    {"resuming"},
    {"open_stage"},
    {"ledger"},
    {"already_done"},
    {"account", "opening", "procedure"},
    {"pipeline", "comparison", "repetition", "search"},
    {"cli"},
    {"__main__"},
]
# Each of these libraries is known to one place.
ONLY_IN = {
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "mlflow": {"tracking"},
    "optuna": {"search"},
    "tensorflow_datasets": {"data"},
    "jinja2": {"report"},
    "matplotlib": {"report"},
    "sklearn": {"data", "evaluation"},
}
PURE = {"surgery", "normalization"}
PURE_MAY_IMPORT = {"keras", "numpy", "tensorflow", "bnadapt"} | set(sys.stdlib_module_names)
DRAWERS = {"utils", "helpers", "common", "misc", "tools"}


def modules(project: Path) -> list[Path]:
    return sorted((project / "bnadapt").rglob("*.py"))


def floor_name(project: Path, module: Path) -> str:
    return module.relative_to(project / "bnadapt").parts[0].removesuffix(".py")


def imported_modules(module: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module} imports relatively"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_every_module_stands_on_a_floor(project: Path) -> None:
    known = set().union(*FLOORS) | {"__init__"}
    assert {floor_name(project, module) for module in modules(project)} <= known


def test_imports_run_downwards(project: Path) -> None:
    height = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = []
    for module in modules(project):
        here = floor_name(project, module)
        if here == "__init__":
            continue
        for name in imported_modules(module):
            parts = name.split(".")
            if parts[0] == "bnadapt" and len(parts) > 1 and parts[1] in height:
                there = parts[1]
                if there != here and height[there] >= height[here]:
                    wrong.append(f"{module.relative_to(project)} imports {name}")
    assert not wrong


def test_each_outer_library_is_known_to_one_place(project: Path) -> None:
    wrong = [
        f"{module.relative_to(project)} imports {name}"
        for module in modules(project)
        for name in imported_modules(module)
        if floor_name(project, module) not in ONLY_IN.get(name.split(".")[0], {floor_name(project, module)})
    ]
    assert not wrong


def test_the_core_needs_keras_and_numpy_only(project: Path) -> None:
    wrong = [
        f"{module.relative_to(project)} imports {name}"
        for module in modules(project)
        if floor_name(project, module) in PURE
        for name in imported_modules(module)
        if name.split(".")[0] not in PURE_MAY_IMPORT
    ]
    assert not wrong


def test_there_is_no_drawer(project: Path) -> None:
    assert not [module for module in modules(project) if set(module.with_suffix("").parts) & DRAWERS]


@pytest.mark.parametrize(
    "module",
    [
        "bnadapt",
        "bnadapt.config",
        "bnadapt.checks",
        "bnadapt.errors",
        "bnadapt.cli",
        "bnadapt.data.availability",
    ],
)
def test_settings_are_checked_without_tensorflow(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'tensorflow', 'keras', 'mlflow'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_names_are_there() -> None:
    import bnadapt

    for name in bnadapt.__all__:
        assert getattr(bnadapt, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'; it has ALL, "):
        bnadapt.nonsense  # noqa: B018
