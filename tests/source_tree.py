"""The project's own source files, parsed: for tests of how the code is laid out."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.shared_data import REPOSITORY

PACKAGES = ("vidinvert", "stabilizers")


@dataclass(frozen=True)
class Module:
    """A source file: `name` is dotted (`vidinvert.media.probe`), `__init__` is its package."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def place(self) -> str:
        return str(self.path.relative_to(REPOSITORY))

    def calls(self) -> Iterator[ast.Call]:
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def imports(self) -> Iterator[tuple[str, int]]:
        """Yield (dotted name, line) of every import, also those inside functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, node.lineno
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                # `from vidinvert import geometry` names a module, `from m import f` a member of m.
                for alias in node.names:
                    yield f"{base}.{alias.name}", node.lineno

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parts = self.name.split(".")
        package = parts if self.path.name == "__init__.py" else parts[:-1]
        package = package[: len(package) - node.level + 1]
        return ".".join([*package, *([node.module] if node.module else [])])


@cache
def modules() -> tuple[Module, ...]:
    """Return all source files of both packages."""
    return tuple(
        parse(path.read_text(encoding="utf-8"), path)
        for package in PACKAGES
        for path in sorted((REPOSITORY / package).rglob("*.py"))
    )


def parse(source: str, path: Path) -> Module:
    """Parse a source as if it lay at `path`."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name=name, path=path, tree=ast.parse(source, filename=str(path)))


def called_name(call: ast.Call) -> str:
    """Return the last part of what is called: `interpolate` for `F.interpolate(...)`."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""
