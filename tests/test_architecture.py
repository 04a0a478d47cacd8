"""The map holds: floors go down only, no cycle, no hidden import, and the door to the library stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "pinxit"
FILES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}

FLOORS = {
    "text": 0,
    "nn": 1,
    "tokens": 1,
    "diffusion": 1,
    "models": 2,
    "checkpoints": 3,
    "data": 3,
    "objectives": 4,
    "systems": 4,
    "training": 5,
    "evaluation": 5,
    "jobs": 5,
    "recipes": 6,
    "serve": 7,
    "cli": 7,
}
DOORS = {"__init__.py", "__main__.py"}
"""At the root, above all floors; `__version__` may be imported from anywhere."""

BELOW = {"errors.py", "atomic.py", "progress.py"}
"""At the root, below all floors."""

DEPENDENCIES = {
    "torch", "numpy", "PIL", "safetensors", "tokenizers", "huggingface_hub", "pydantic", "yaml", "click", "tqdm"
}  # fmt: skip

OPTIONAL = {"pyarrow": "parquet", "torch.utils.tensorboard": "tensorboard"}
"""What may be imported inside a function, because not everybody has it: module -> the extra that brings it."""

TABLES = {"systems/system.py", "cli/main.py"}
"""The files that import by name, from a table on the same page."""

REFUSED = {"utils", "util", "common", "helpers", "helper", "misc", "legacy", "old", "new"}


@dataclass(frozen=True)
class Import:
    """One imported module: `lazy` inside a function, `typing` under TYPE_CHECKING."""

    module: str
    line: int
    lazy: bool
    typing: bool


def imports(path: Path) -> list[Import]:
    """Every import of a file, names of submodules resolved (`from pinxit.data import images`)."""

    def walk(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy, typing) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = own_file(inner) is not None or inner in OPTIONAL
                yield Import(inner if is_module else str(node.module), node.lineno, lazy, typing)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing = True
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            lazy = True
        for child in ast.iter_child_nodes(node):
            yield from walk(child, lazy, typing)

    return list(walk(ast.parse(path.read_text(encoding="utf-8")), False, False))


def own_file(module: str) -> str | None:
    """The file of one of our modules, relative to src/pinxit; None for somebody else's."""
    if module.split(".", maxsplit=1)[0] != "pinxit":
        return None
    stem = "/".join(module.split(".")[1:])
    return next((name for name in (f"{stem}.py", f"{stem}/__init__.py".lstrip("/")) if name in FILES), None)


def folder_of(name: str) -> str:
    return name.split("/", maxsplit=1)[0] if "/" in name else ""


def faults_of(name: str) -> list[str]:
    """What is wrong with one file's imports."""
    found = []
    for item in imports(FILES[name]):
        where = f"{name}:{item.line} imports {item.module}"
        target = own_file(item.module)
        if target is None:
            top = item.module.split(".")[0]
            if top == "pinxit":
                found.append(f"{where}, which does not exist")
            elif top not in sys.stdlib_module_names | DEPENDENCIES and item.module.split(".")[0] not in OPTIONAL:
                found.append(f"{where}, which is no declared dependency")
        elif name in BELOW and target not in BELOW:
            found.append(f"{where}, but {name} is below every floor")
        elif target not in {*BELOW, *DOORS} and name not in DOORS:
            here, there = folder_of(name), folder_of(target)
            if here not in FLOORS:
                found.append(f"{where}, but {here or name} has no floor")
            elif here != there and FLOORS[there] >= FLOORS[here]:
                found.append(f"{where}: from floor {FLOORS[here]} to floor {FLOORS[there]}")
        declared = any(item.module == module or item.module.startswith(f"{module}.") for module in OPTIONAL)
        if item.lazy and not declared and name not in DOORS and folder_of(name) != "cli":
            found.append(f"{where} inside a function")
        if declared and not item.lazy and not item.typing:
            found.append(f"{where} at the top, but it is optional")
    return found


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_and_sit_at_the_top(name: str) -> None:
    assert not faults_of(name)


def test_imports_have_no_cycle() -> None:
    graph = {
        name: {target for item in imports(path) if not item.typing and (target := own_file(item.module))} - DOORS
        for name, path in FILES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as fault:
        pytest.fail(f"imports run in a circle: {fault.args[1]}")


@pytest.mark.parametrize("name", FILES)
def test_only_tables_import_by_name(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    assert name in TABLES or not re.search(r"import_module|__import__|exec\(|\beval\(", re.sub(r"\.eval\(", "", text))


def test_optional_modules_belong_to_an_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(OPTIONAL.values()) <= extras.keys()


def test_text_knows_no_torch() -> None:
    light = [name for name in FILES if folder_of(name) == "text"] + [*BELOW, "systems/picture.py", "cli/main.py"]
    assert [name for name in light if any(item.module.split(".")[0] == "torch" for item in imports(FILES[name]))] == []


@pytest.mark.parametrize("name", FILES)
def test_every_file_says_what_it_is_for(name: str) -> None:
    assert Path(name).stem not in REFUSED
    assert ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8")))


def test_the_map_has_one_line_for_every_file() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- `([\w/]+\.py)`\*?: \S", page, flags=re.MULTILINE)
    present = [name for name in FILES if not name.endswith("/__init__.py")]
    assert sorted(listed) == sorted(present)


@pytest.mark.parametrize(
    "code",
    [
        "import pinxit; pinxit.Picture; pinxit.PinxitError",
        "from pinxit.cli.main import main; main(['--help'], standalone_mode=False)",
        "from pinxit.cli.main import main; main(['generate', '--help'], standalone_mode=False)",
    ],
)
def test_the_door_loads_no_torch(code: str) -> None:
    check = f"{code}\nimport sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
