"""docs/PYTHON.md has all that a program can use of the library, as the code has it."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tallymark
from tallymark import AsyncClient, Client, ClientStats, Run, Session, SettingError
from tallymark.intake import DROP_TEXTS
from tallymark.settings import Settings
from tallymarkd.setting import MIB
from tests.doc_tables import first_cells, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "PYTHON.md"
LIBRARY = Path(tallymark.__file__).parent

UNITS = {"seconds": "s", "events": "events", "bytes": "bytes"}
NOT_NUMBERS = {"project": "text", "socket": "path", "spool_dir": "path", "source": "text"}


def signature(found: Any) -> str:
    """Names and defaults: what a caller writes."""
    shown = inspect.signature(found)
    parameters = [
        each.replace(annotation=inspect.Parameter.empty)
        for name, each in shown.parameters.items()
        if name != "self"
    ]
    return str(shown.replace(parameters=parameters, return_annotation=inspect.Parameter.empty))


def public(owner: type) -> set[str]:
    """Methods with their signatures, and properties."""
    found = {name: getattr(owner, name) for name in dir(owner) if not name.startswith("_")}
    return {name + (signature(each) if callable(each) else "") for name, each in found.items()}


def documented_attributes(owner: type) -> set[str]:
    """Public attributes that the class's own methods set and say what they are."""
    tree = ast.parse(inspect.getsource(owner))
    found: set[str] = set()
    for function in ast.walk(tree):
        for before, after in _pairs(function):
            targets = before.targets if isinstance(before, ast.Assign) else []
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found |= {
                target.attr
                for target in targets
                if said and isinstance(target, ast.Attribute) and not target.attr.startswith("_")
            }
    return found


def _pairs(node: ast.AST) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    body = getattr(node, "body", None)
    if isinstance(body, list):
        yield from itertools.pairwise(body)


@pytest.mark.parametrize(
    ("owner", "section"),
    [
        (Client, "### `Client`, `AsyncClient`"),
        (AsyncClient, "### `Client`, `AsyncClient`"),
        (Run, "### `Run`"),
        (Session, "### `Session`"),
    ],
)
def test_every_method_is_told_as_it_is_called(owner: type, section: str) -> None:
    right = public(owner) | documented_attributes(owner)
    assert set(first_cells(PAGE, "method", section)) == right


def test_the_methods_to_be_awaited_are_told() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sentence = re.search(r"are awaited there: (.*?)\.\s", text)
    assert sentence is not None
    right = {
        name
        for name in dir(AsyncClient)
        if not name.startswith("_") and inspect.iscoroutinefunction(getattr(AsyncClient, name))
    }
    assert set(re.findall(r"`(\w+)`", sentence[1])) == right


def test_every_exported_name_is_told() -> None:
    text = PAGE.read_text(encoding="utf-8")
    told = set(re.findall(r"\w+", text))
    assert set(tallymark.__all__) - told == {"Event", "__version__"}


def test_every_setting_is_told_with_unit_default_and_bounds() -> None:
    rows = {row[0].strip("`"): row[1:4] for row in table(PAGE, "argument")}
    parameters = dict(inspect.signature(Client).parameters)
    assert list(rows) == list(parameters)
    for name, unit in NOT_NUMBERS.items():
        default = "below" if parameters[name].default is None else ""
        assert rows.pop(name) == [unit, default, ""], name
    for name, (unit, default, bounds) in rows.items():
        assert unit == UNITS[name.removesuffix("_max").rpartition("_")[2]], name
        assert value(default) == parameters[name].default, name
        assert_bounds(name, bounds)


def value(shown: str) -> float:
    """The number that a cell stands for."""
    number, _, unit = shown.partition(" ")
    return float(number) * {"": 1, "B": 1, "MiB": MIB, "TiB": MIB**2}[unit]


def assert_bounds(name: str, bounds: str) -> None:
    """Both are allowed (``over`` the first is not), and nothing beyond."""
    least, most = bounds.split(", ")
    step = 0.001 if name.endswith("_seconds") else 1
    exclusive = least.startswith("over ")
    low, high = value(least.removeprefix("over ")), value(most)
    allowed = [low + step if exclusive else low, high]
    refused = [low if exclusive else low - step, high + step]
    kind = float if name.endswith("_seconds") else int
    for number in allowed:
        make(name, kind(number))
    for number in refused:
        with pytest.raises(SettingError, match=name):
            make(name, kind(number))


def make(name: str, number: Any) -> Settings:
    return Settings(**{name: number})


def test_every_environment_variable_of_the_library_is_told() -> None:
    read = {
        node.value
        for path in LIBRARY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"TALLYMARK_[A-Z_]+", node.value)
    }
    assert set(first_cells(PAGE, "variable")) == read
    assert "TALLYMARK_STATE_DIR" in read


def test_every_count_and_every_reason_to_drop_is_told() -> None:
    rows = {row[0].strip("`"): row[1] for row in table(PAGE, "count")}
    assert set(rows) == set(ClientStats.__struct_fields__)
    assert set(re.findall(r"`(\w+)`", rows["dropped"])) == set(DROP_TEXTS)
