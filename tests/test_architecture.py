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
ROOMS = (
    "qkd.errors",
    "qkd.base",
    "qkd.bits",
    "qkd.target",
    "qkd.recipe",
    "qkd.pipeline",
    "qkd.run_folder",
    "qkd.graph",
    "qkd.tir",
    "qkd.lower",
    "qkd.bundle",
    "qkd.data",
    "qkd.student",
    "qkd.train",
    "qkd.proof",
    "qkd.passes.train",
    "qkd.passes.graph",
    "qkd.passes",
    "qkd.targets.kernels",
    "qkd.targets.running",
    "qkd.targets",
    "qkd.targets.planning",
    "qkd.graph_inputs",
    "qkd.compile",
    "qkd.cli",
    "qkd.__main__",
)
"""In the order in which data flow; a room imports only rooms before it."""


def module_of(path: Path) -> str:
    """The name under which a source file is imported."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([folder if folder == "qkd" else f"qkd.{folder}", *rest]).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES if path.relative_to(ROOT).parts[0] != "benchmarks"}


def room_of(module: str) -> str:
    """The longest room that the module lies in."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)


def imported(path: Path) -> set[str]:
    """Every module a file imports, at any depth, type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in full}
    return found


def rooms_imported() -> dict[str, set[str]]:
    """For each room those that its files import."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, path in MODULES.items():
        if module != "qkd":
            found[room_of(module)] |= {room_of(m) for m in imported(path) if m.startswith("qkd.")} - {room_of(module)}
    return found


def test_a_room_imports_only_rooms_before_it() -> None:
    climbing = {
        f"{room} imports {other}"
        for room, others in rooms_imported().items()
        for other in others
        if ROOMS.index(other) >= ROOMS.index(room)
    }
    assert climbing == set()


def test_the_house_has_at_most_eleven_floors() -> None:
    """A room's floor is one above the highest that it imports; were there a circle, the test before would fail."""
    floors: dict[str, int] = {}
    imports = rooms_imported()
    for room in ROOMS:
        floors[room] = 1 + max((floors[other] for other in imports[room]), default=0)
    assert max(floors.values()) <= 11


def test_tests_import_no_tests_and_benchmarks_neither() -> None:
    guilty = {
        f"{path.relative_to(ROOT)} imports {module}"
        for folder in ("tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for module in imported(path)
        if module.startswith("tests.") and (folder == "benchmarks" or not module.startswith("tests.support"))
    }
    assert guilty == set()


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
