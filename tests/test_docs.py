"""What the docs say can be typed: commands, options, recipes, settings and imports that are there."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import pinxit
from pinxit.cli.main import main
from pinxit.recipes.catalogue import find
from pinxit.recipes.overrides import override
from pinxit.recipes.recipe import Context

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "lineage.sh"]
PAGES += [path for path in sorted((ROOT / "src/pinxit/recipes").glob("*.py")) if "pinxit train" in path.read_text()]


def commands() -> Iterator[str]:
    for page in PAGES:
        for line in re.sub(r" \\\n\s*", " ", page.read_text(encoding="utf-8")).splitlines():
            if found := re.match(r"(?:    )?(?:torchrun .* -m )?pinxit (\S.*)", line):
                yield without_brackets(found[1].split("  ")[0]).partition("#")[0]


def benchmarks() -> Iterator[str]:
    pages = [*PAGES, *sorted((ROOT / "benchmarks").glob("*.py"))]
    for page in pages:
        for line in re.sub(r" \\\n\s*", " ", page.read_text(encoding="utf-8")).splitlines():
            if found := re.search(r"python (benchmarks/\S+\.py\b[^`]*)", line):
                yield without_brackets(found[1])


def without_brackets(line: str) -> str:
    """Options that may be left out are given; JSON stays."""
    return re.sub(r"\[(-[^\]]*|[A-Z. ]+)\]", r"\1", line)


def blocks() -> Iterator[str]:
    for page in PAGES:
        yield from re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands(line: str) -> None:
    command: click.Command = main
    words = shlex.split(line)
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no {words[0]!r}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    given, _, _ = command.make_parser(context).parse_args(words)
    if command.name == "train":
        override(find(given["recipe"]), given.get("assignments", ()))


@pytest.mark.parametrize("block", sorted(set(blocks())))
def test_imports(block: str) -> None:
    for node in ast.parse(block).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), "docs", "exec"), {})


@pytest.mark.parametrize("line", sorted(set(benchmarks())))
def test_benchmarks(line: str) -> None:
    script, *words = shlex.split(line, comments=True)
    source = (ROOT / script).read_text(encoding="utf-8")
    for option in (word.partition("=")[0] for word in words if word.startswith("--")):
        assert f'"{option}"' in source, f"{script} has no {option}"


def test_the_recipe_of_the_docs_trains(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    (block,) = (block for block in blocks() if "-> Recipe:" in block)
    exec(compile(block, "docs", "exec"), found)
    recipe = override(found["my_vae"](), ["training.steps=2", "training.batch_size=4"])
    recipe.run(Context("scenes:40", tmp_path))
    assert pinxit.load(tmp_path).kind == "vae"


def test_pictures() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).is_file(), f"{page.name} shows {link}, which is not there"


def test_there_are_many_of_each() -> None:
    assert len(set(commands())) > 30
    assert len(set(benchmarks())) > 20
    assert len(set(blocks())) > 5
