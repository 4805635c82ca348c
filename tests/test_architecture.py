"""The rules of the tree: who may import whom, what an import may load, how long code may be, what the wheel holds."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for folder in ("qkd", "passes", "targets", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
DRIVERS = {"compile.py", "planning.py", "cli.py"}


def imported(path: Path) -> set[str]:
    """Every module a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_core_files_import_neither_passes_nor_targets() -> None:
    guilty = {
        str(path.relative_to(ROOT)): bad
        for path in (ROOT / "qkd").rglob("*.py")
        if path.name not in DRIVERS
        and (bad := {m for m in imported(path) if m.startswith(("qkd.passes", "qkd.targets"))})
    }
    assert guilty == {}


def test_tvm_is_touched_in_few_files() -> None:
    touching = {p.name for p in SOURCES if any(m.split(".")[0] in ("tvm", "tvm_ffi") for m in imported(p))}
    assert touching <= {"tir.py", "tir_expr.py", "codegen.py", "lower.py", "rpc.py"}


@pytest.mark.parametrize(
    "module",
    [
        "qkd",
        "qkd.graph.graph",
        "qkd.graph.reference",
        "qkd.recipe",
        "qkd.bundle.bundle",
        "qkd.bundle.portable_c",
        "qkd.cli",
    ],
)
def test_importing_loads_neither_torch_nor_tvm(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'tvm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    doc = ast.get_docstring(function, clean=False)
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    return length - (len(doc.splitlines()) if doc else 0)


def test_files_stay_under_400_lines_and_functions_under_the_limit() -> None:
    assert [str(p) for p in SOURCES if len(p.read_text().splitlines()) > 400] == []
    lengths = sorted(
        body_lines(node) for p in SOURCES for node in ast.walk(ast.parse(p.read_text()))
        if isinstance(node, ast.FunctionDef)
    )  # fmt: skip
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[int(len(lengths) * 0.95)] <= 45


def test_every_file_says_on_its_first_line_what_it_does() -> None:
    assert [str(p) for p in SOURCES if not p.read_text().startswith(('"""', "#!"))] == []


@pytest.mark.slow
def test_the_wheel_holds_what_the_tree_holds(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, since setuptools leaves a build folder whose stale files end up in wheels
    for folder in ("qkd", "passes", "targets"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tree = set()
    for folder, package in (("qkd", "qkd"), ("passes", "qkd/passes"), ("targets", "qkd/targets")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                tree.add(f"{package}/{path.relative_to(ROOT / folder)}")
    assert held == tree
