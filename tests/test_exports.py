"""`__all__` of every package says what there is, sorted, and nothing else is handed on."""

import ast
import importlib

import pytest

from tests.source_tree import PACKAGES, Module, modules


def facades() -> list[Module]:
    return [module for module in modules() if module.path.name == "__init__.py"]


def exported(module: Module) -> list[str] | None:
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def handed_on(module: Module) -> set[str]:
    """Return the public names that a package offers: defined there, or imported to be handed on."""
    used = {node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)}
    names: set[str] = set()
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
            names |= {alias.asname or alias.name for alias in node.names} - used
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("module", facades(), ids=lambda module: module.name)
def test_all_is_what_the_package_offers(module):
    names = exported(module) or []
    assert handed_on(module) <= set(names), "missing from __all__"
    assert len(set(names)) == len(names)
    loaded = importlib.import_module(module.name)
    assert [name for name in names if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("module", facades(), ids=lambda module: module.name)
def test_all_is_sorted(module):
    """As ruff sorts it (RUF022): constants, then classes, then functions, each by name."""
    names = exported(module) or []
    rank = [(not n.isupper(), not n[:1].isupper() or n.isupper(), n) for n in names]
    dunder_last = sorted(rank)
    assert [n for *_, n in dunder_last] == names


@pytest.mark.parametrize("module", facades(), ids=lambda module: module.name)
def test_every_package_says_what_it_is_for(module):
    empty = not module.tree.body
    assert empty or ast.get_docstring(module.tree)
