"""Reads imports and calls from the source, and says where they break the architecture.

Each rule is a function from the modules of a tree to a list of complaints,
one line each; ``test_architecture.py`` holds them against the repository and
against small trees that break them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LINES_MAX = 400

CLIENT_FLOORS: Sequence[Sequence[str]] = (
    ("tallymark._version", "tallymark.ids"),
    ("tallymark.errors",),
    ("tallymark.events",),
    ("tallymark.state", "tallymark.usage"),
    ("tallymark.protocol",),
    ("tallymark.record",),
    ("tallymark.fs",),
    ("tallymark.paths",),
    ("tallymark.transport",),
    ("tallymark.spool_header",),
    ("tallymark.spool",),
    ("tallymark.*",),
    ("tallymark",),
)
DAEMON_FLOORS: Sequence[Sequence[str]] = (
    ("tallymarkd._version", "tallymarkd.text"),
    ("tallymarkd.storage",),
    ("tallymarkd.core",),
    ("tallymarkd.server",),
    ("tallymarkd.*",),
    ("tallymarkd.cli",),
    ("tallymarkd",),
)
"""Lowest first. A name is a module, or a package with all that is in it; the
name of a distribution's top package is its ``__init__`` alone. ``.*`` is every
module that is named nowhere else: a new one stands above the named floors."""

TOP_PACKAGES = ("tallymark", "tallymarkd")

Allowed = Mapping[str, Sequence[str]]

ALLOWED_FROM_CLIENT: Allowed = {
    "tallymarkd.storage": ("tallymark.record", "tallymark.fs", "tallymark.errors"),
}
FORBIDDEN: Allowed = {
    "tallymark.protocol": (
        "_thread",
        "asyncio",
        "concurrent",
        "logging",
        "multiprocessing",
        "os",
        "queue",
        "random",
        "select",
        "selectors",
        "socket",
        "subprocess",
        "threading",
        "time",
    ),
    # The server gets what it needs of both as handlers, from the composition root.
    "tallymarkd.server": ("tallymarkd.storage", "tallymarkd.core.metrics_store"),
}

SOCKET_MODULES = frozenset({"_socket", "socket", "socketserver", "ssl"})
SOCKET_HOMES = ("tallymark.transport", "tallymarkd.server")
NEVER_REACH_SOCKETS = ("tallymark.protocol", "tallymarkd.storage", "tallymarkd.core")

IMPORTED_WHEN_NEEDED = frozenset({"genai_prices"})

FILE_HOMES = ("tallymark.fs",)
FILE_MODULES = frozenset({"shutil", "tempfile"})
FILE_CALLS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "os": (
            "copy_file_range fdatasync fdopen fsync ftruncate link makedirs mkdir mkfifo mknod"
            " open posix_fallocate pwrite pwritev remove removedirs rename renames replace rmdir"
            " sendfile symlink truncate unlink write writev"
        ),
        "posix": "fdatasync fsync link open pwrite rename replace unlink write",
        "fcntl": "flock lockf",
        "io": "FileIO open",
    }.items()
    for name in names.split()
)

# Modules whose ``replace(one)`` copies an object.
COPIERS = ("copy", "dataclasses", "structs")


@dataclass(frozen=True)
class Import:
    """One imported name; ``late`` when it is not imported with its module:
    inside a function, or for types only."""

    target: str
    line: int
    late: bool


@dataclass
class Module:
    """One source file, under the name it is imported by."""

    name: str
    path: Path
    tree: ast.Module
    lines: int
    imports: list[Import] = field(default_factory=list)

    def within(self, names: Iterable[str]) -> bool:
        """Whether this is one of the named modules, or in one of the named packages."""
        return any(inside(self.name, name) for name in names)

    def says(self, line: int, what: str) -> str:
        """A complaint about this module."""
        return f"{self.name}:{line}: {what}"


def inside(name: str, package: str) -> bool:
    """Whether ``name`` is the package or in it."""
    return name == package or name.startswith(package + ".")


def read_tree(*sources: Path) -> dict[str, Module]:
    """Every module under the given source folders, with its imports resolved."""
    modules: dict[str, Module] = {}
    for source in sources:
        for path in sorted(source.rglob("*.py")):
            parts = path.relative_to(source).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text, str(path))
            modules[name] = Module(name, path, tree, text.count("\n"))
    for module in modules.values():
        module.imports = list(_imports(module, modules))
    return modules


def _imports(module: Module, modules: Mapping[str, Module]) -> Iterator[Import]:
    late = {
        id(inner)
        for outer in ast.walk(module.tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(outer, ast.If) and ast.unparse(outer.test).endswith("TYPE_CHECKING"))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(module.tree):
        for target in sorted(set(_targets(node, module, modules))):
            yield Import(target, getattr(node, "lineno", 0), id(node) in late)


def _targets(node: ast.AST, module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, module)
        for alias in node.names:
            full = f"{base}.{alias.name}"
            # A name of a package of ours is a module of it, or from its __init__.
            yield full if full in modules else base
    elif isinstance(node, ast.Call) and node.args:
        called = ast.unparse(node.func)
        first = node.args[0]
        if called.rpartition(".")[2] in {"import_module", "__import__"} and (
            isinstance(first, ast.Constant) and isinstance(first.value, str)
        ):
            yield first.value


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    if module.path.name != "__init__.py":
        parts = parts[:-1]
    parts = parts[: len(parts) - (node.level - 1)]
    return ".".join([*parts, node.module] if node.module else parts)


def floor_of(name: str, floors: Sequence[Sequence[str]]) -> int | None:
    """The number of the floor that a module stands on; None for another distribution's."""
    rest = None
    for number, names in enumerate(floors):
        for entry in names:
            if name == entry or (entry not in TOP_PACKAGES and inside(name, entry)):
                return number
            if entry.endswith(".*") and inside(name, entry[:-2]):
                rest = number
    return rest


def check_floors(modules: Mapping[str, Module], floors: Sequence[Sequence[str]]) -> list[str]:
    """A module imports only from its own floor or below."""
    found = []
    for module in modules.values():
        own = floor_of(module.name, floors)
        if own is None:
            continue
        for imported in module.imports:
            other = floor_of(imported.target, floors)
            if other is not None and other > own:
                found.append(module.says(imported.line, f"imports {imported.target} from above"))
    return found


def check_cycles(modules: Mapping[str, Module]) -> list[str]:
    """No module imports itself by way of others, at whatever time."""
    edges = {
        name: {i.target for i in module.imports if i.target in modules and i.target != name}
        for name, module in modules.items()
    }
    found = []
    for name in edges:
        reached = _reach(name, edges)
        if name in reached:
            ring = sorted(other for other in reached if name in _reach(other, edges))
            if name == ring[0]:
                found.append("import each other: " + ", ".join(ring))
    return found


def _reach(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    todo = [start]
    while todo:
        for target in edges.get(todo.pop(), ()):
            if target not in reached:
                reached.add(target)
                todo.append(target)
    return reached


def check_allowed(modules: Mapping[str, Module]) -> list[str]:
    """The client knows nothing of the daemon; some floors know still less."""
    found = []
    for module in modules.values():
        for imported in module.imports:
            reason = _refusal(module, imported.target)
            if reason:
                found.append(module.says(imported.line, f"imports {imported.target}: {reason}"))
    return found


def _refusal(module: Module, target: str) -> str:
    if inside(module.name, "tallymark") and inside(target, "tallymarkd"):
        return "the client knows nothing of the daemon"
    for home, names in FORBIDDEN.items():
        if module.within([home]) and any(inside(target, name) for name in names):
            return f"not for {home}"
    for home, names in ALLOWED_FROM_CLIENT.items():
        of_client = module.within([home]) and inside(target, "tallymark")
        if of_client and not any(inside(target, name) for name in names):
            return f"{home} may use only {', '.join(names)} of the client"
    return ""


def check_sockets(modules: Mapping[str, Module]) -> list[str]:
    """Sockets are imported in few places, and the lower floors do not reach those."""
    found = []
    direct = set()
    for module in modules.values():
        for imported in module.imports:
            if imported.target.partition(".")[0] in SOCKET_MODULES:
                direct.add(module.name)
                if not module.within(SOCKET_HOMES):
                    found.append(module.says(imported.line, f"imports {imported.target}"))
    edges = {name: {i.target for i in module.imports} for name, module in modules.items()}
    for module in modules.values():
        if module.within(NEVER_REACH_SOCKETS):
            found += [
                module.says(1, f"reaches sockets through {name}")
                for name in sorted(_reach(module.name, edges) & direct)
            ]
    return found


def check_files(modules: Mapping[str, Module]) -> list[str]:
    """Only ``fs.py`` opens files for writing, syncs, renames, removes or locks them."""
    found = []
    for module in modules.values():
        if not module.within(FILE_HOMES):
            found += [
                module.says(imported.line, f"imports {imported.target}")
                for imported in module.imports
                if imported.target.partition(".")[0] in FILE_MODULES
            ]
            found += _file_calls(module)
    return found


def _file_calls(module: Module) -> Iterator[str]:
    imported = [n for n in ast.walk(module.tree) if isinstance(n, ast.Import)]
    aliases = {a.asname: a.name for node in imported for a in node.names if a.asname}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names} & FILE_CALLS
            yield from (module.says(node.lineno, f"imports {name}") for name in sorted(names))
        # Named at all, not only called: a function can be handed on.
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{aliases.get(node.value.id, node.value.id)}.{node.attr}"
            if name in FILE_CALLS:
                yield module.says(node.lineno, f"uses {name}")
        if isinstance(node, ast.Call):
            what = _opens_for_writing(node) or _writes_by_path(node)
            if what:
                yield module.says(node.lineno, f"uses {what}")


def _opens_for_writing(call: ast.Call) -> str:
    if isinstance(call.func, ast.Name) and call.func.id == "open":
        place = 1
    elif isinstance(call.func, ast.Attribute) and call.func.attr == "open":
        place = 0
    else:
        return ""
    mode: ast.expr | None = call.args[place] if len(call.args) > place else None
    for keyword in call.keywords:
        if keyword.arg == "mode":
            mode = keyword.value
    if mode is None:
        return ""
    if isinstance(mode, ast.Constant) and isinstance(mode.value, str):
        return f"open(…, {mode.value!r})" if set(mode.value) & set("wax+") else ""
    return "open with a computed mode" if place == 1 else ""


def _writes_by_path(call: ast.Call) -> str:
    """A method of ``Path`` that changes the disk, told by its name and its arguments.

    ``FileSystem`` has ``replace(a, b)``, ``unlink(path)`` and ``mkdir(path)``;
    ``str.replace`` takes two arguments and ``datetime.replace`` named ones.
    """
    if not isinstance(call.func, ast.Attribute):
        return ""
    name, positional = call.func.attr, len(call.args)
    if name in {"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "rename"}:
        return f"Path.{name}"
    if name in {"unlink", "mkdir", "rmdir"} and positional == 0:
        return f"Path.{name}"
    if name == "replace" and positional == 1 and not call.keywords:
        return "" if ast.unparse(call.func.value).endswith(COPIERS) else "Path.replace"
    return ""


def check_form(modules: Mapping[str, Module]) -> list[str]:
    """No file is too long, and every public module says what it is for."""
    found = []
    for module in modules.values():
        if module.lines > LINES_MAX:
            found.append(module.says(1, f"has {module.lines} lines, {LINES_MAX} are allowed"))
        public = not any(
            part.startswith("_") and not part.startswith("__") for part in module.name.split(".")
        )
        if public and not ast.get_docstring(module.tree):
            found.append(module.says(1, "has no docstring"))
    return found


def check_third_parties(
    modules: Mapping[str, Module], package: str, allowed: Iterable[str]
) -> list[str]:
    """Nothing is imported that the distribution does not declare."""
    known = {*sys.stdlib_module_names, package, *allowed}
    found = []
    for module in modules.values():
        if not inside(module.name, package):
            continue
        for imported in module.imports:
            top = imported.target.partition(".")[0]
            if top not in known:
                found.append(module.says(imported.line, f"imports {imported.target}, undeclared"))
            if top in IMPORTED_WHEN_NEEDED and not imported.late:
                found.append(module.says(imported.line, f"imports {top} before it is needed"))
    return found
