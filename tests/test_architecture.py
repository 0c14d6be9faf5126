"""The house plan of docs/architecture, asserted: floors, rooms, no cycles, no giants.

The rules are functions from sources to sentences, so that the last tests can show that each of them bites.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

PACKAGE = "pipeteer_django"
ROOT = Path(__file__).resolve().parent.parent

FLOORS = {
    "conf": 0, "exceptions": 0, "signals": 0,
    "wakeups": 1,
    "pipelines": 2,
    "queues": 3, "models": 3,
    "worker": 4, "live": 4, "taskbackend": 4,
}  # fmt: skip
TOP_FLOOR = 5  # apps, checks, admin, management, testing and whatever else wires things to Django
SHARED_ROOMS = {
    # Files of one floor that may see each other: the ground floor, the top floor, and the tables (`models` is where
    # Django wants a package's own tables; they belong to queues/).
    "conf": "the ground floor", "exceptions": "the ground floor", "signals": "the ground floor",
    "models": "queues",
}  # fmt: skip
RESERVED = {"zmq": "wakeups", "channels": "live", "daphne": "live"}
DATABASE_ROOMS = {f"{PACKAGE}.queues.{name}" for name in ("database", "statements", "fitness")}
LONGEST_FILE = 400
CODE_FROM_TEXT = {
    "eval", "exec", "compile", "__import__", "import_string", "import_module", "autodiscover_modules", "run_path",
    "run_module", "resolve_name", "locate", "exec_module", "load_module", "literal_eval",
}  # fmt: skip
SERIALIZERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "yaml",
    "runpy",
}
MAY_IMPORT_BY_NAME = {
    f"{PACKAGE}": "the public names, from a table in that very file",
    f"{PACKAGE}.apps": "modules of this package, and the pipelines.py of installed apps",
    f"{PACKAGE}.worker.worker": 'settings.PIPETEER["CONTEXT"]',
    f"{PACKAGE}.live.requests": "settings.SESSION_ENGINE",
    f"{PACKAGE}.deploychecks": "settings.ASGI_APPLICATION",
}
"""What they import is named by code or settings, never by a row."""
PLAN = "See docs/architecture: conf < wakeups < pipelines < queues < worker, live, taskbackend < everything else."


@dataclass(frozen=True)
class Import:
    """One name that a module imports: the module it comes from, and whether that is only for type checkers."""

    target: str
    line: int
    typing_only: bool
    function: str | None


@dataclass(frozen=True)
class Module:
    """One parsed file."""

    name: str
    path: str
    source: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def is_face(self) -> bool:
        """`pipeteer_django/__init__.py` is the public face: it may show anything, and lazily."""
        return self.name == PACKAGE

    @property
    def is_migration(self) -> bool:
        return self.name.startswith(f"{PACKAGE}.migrations.")


Sources = dict[str, str]


def parse(sources: Sources) -> dict[str, Module]:
    """Modules by dotted name, from sources by path."""
    names = {path: path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in sources}
    known = set(names.values())
    modules = {}
    for path, source in sources.items():
        tree = ast.parse(source, path)
        imports = tuple(find_imports(tree, names[path], path.endswith("__init__.py"), known))
        modules[names[path]] = Module(names[path], path, source, tree, imports)
    return modules


def find_imports(tree: ast.Module, name: str, is_package: bool, known: set[str]) -> Iterator[Import]:
    """Every import of a file, wherever it stands."""

    def visit(node: ast.AST, typing_only: bool, function: str | None) -> Iterator[Import]:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for target in targets(node, name, is_package, known):
                yield Import(target, node.lineno, typing_only, function)
        elif isinstance(node, ast.Call) and (named := imported_by_name(node, known)):
            yield Import(named, node.lineno, typing_only, function)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        for child in ast.iter_child_nodes(node):
            guarded = isinstance(node, ast.If) and child in node.body and is_type_checking(node.test)
            yield from visit(child, typing_only or guarded, function)

    return visit(tree, False, None)


def imported_by_name(node: ast.Call, known: set[str]) -> str | None:
    """The module of ours that `import_module("...")` or `import_string("...")` imports: a string is an import too."""
    if ast.unparse(node.func).rsplit(".", 1)[-1] not in ("import_module", "import_string") or not node.args:
        return None
    if not isinstance(node.args[0], ast.Constant) or not ours(name := str(node.args[0].value)):
        return None
    parent = name.rsplit(".", 1)[0]
    return parent if name not in known and parent in known and parent != PACKAGE else name


def is_type_checking(test: ast.expr) -> bool:
    """Whether this is the condition of `if TYPE_CHECKING:`."""
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def targets(node: ast.Import | ast.ImportFrom, name: str, is_package: bool, known: set[str]) -> Iterator[str]:
    """The modules that a statement imports: `from package import module` means the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ""
    if node.level:
        here = name.split(".")
        here = here[: len(here) - node.level + is_package]
        base = ".".join([*here, base] if base else here)
    for alias in node.names:
        yield full if (full := f"{base}.{alias.name}") in known else base


def first(module: str) -> str:
    """`queues` of `pipeteer_django.queues.claim`."""
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    return FLOORS.get(first(module), TOP_FLOOR)


def room(module: str) -> str:
    if floor(module) == TOP_FLOOR:
        return "the top floor"
    return SHARED_ROOMS.get(first(module), first(module))


def ours(target: str) -> bool:
    return target == PACKAGE or target.startswith(f"{PACKAGE}.")


# The rules


def floors(modules: dict[str, Module]) -> Iterator[str]:
    """A file imports only from floors below or from its own folder."""
    for module in modules.values():
        if module.is_face:
            continue
        for item in module.imports:
            where = f"{module.path}:{item.line}"
            if item.typing_only or not ours(item.target):
                continue
            if item.target == PACKAGE:
                yield (
                    f"{where} imports from the public face, `{PACKAGE}` itself, which stands above everything. "
                    "Import from the module that defines the name."
                )
            elif floor(item.target) >= floor(module.name) and room(item.target) != room(module.name):
                yield (
                    f"{where} (floor {floor(module.name)}, {room(module.name)}) imports {item.target} "
                    f"(floor {floor(item.target)}, {room(item.target)}): not a floor below. Move what you need down, "
                    f"hand it in as an argument, or register it from above. {PLAN}"
                )


def cycles(modules: dict[str, Module]) -> Iterator[str]:
    """No two modules import each other, directly or around corners."""
    graph = {
        name: sorted({i.target for i in module.imports if not i.typing_only and i.target in modules} - {name})
        for name, module in modules.items()
    }
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> Iterator[str]:
        if name in way:
            yield (
                f"import cycle: {' -> '.join([*way[way.index(name) :], name])}. Two files that need each other are one "
                "file, or lack a third below both."
            )
        elif name not in done:
            for target in graph[name]:
                yield from walk(target, [*way, name])
            done.add(name)

    for name in graph:
        yield from walk(name, [])


def hidden_imports(modules: dict[str, Module]) -> Iterator[str]:
    """Imports stand at the top, where they can be seen."""
    for module in modules.values():
        if module.is_face:
            continue
        for item in module.imports:
            # Django forbids models at the top of apps.py: no app is loaded when that is imported.
            django_hook = module.name == f"{PACKAGE}.apps" and item.function in ("import_models", "ready")
            # pytest imports plugins before there are settings, and in projects without Django.
            pytest_hook = module.name == f"{PACKAGE}.pytest_plugin"
            if item.function and not (django_hook or pytest_hook):
                yield (
                    f"{module.path}:{item.line} imports {item.target} inside {item.function}(). If that dodges a "
                    "cycle, the cycle is the fault: move the shared part one floor down. If it saves start-up time, "
                    "put the slow import into a file that is imported only by who needs it."
                )


def reserved_libraries(modules: dict[str, Module]) -> Iterator[str]:
    """Each foreign world has one room."""
    for module in modules.values():
        for item in module.imports:
            library = item.target.split(".")[0]
            if library in RESERVED and first(module.name) != RESERVED[library]:
                yield (
                    f"{module.path}:{item.line} imports {library}, which only {RESERVED[library]}/ may know. "
                    f"Give {RESERVED[library]}/ a plain function for what you need."
                )


def transactions(modules: dict[str, Module]) -> Iterator[str]:
    """The exactly-once transaction is opened in queues/, nowhere else."""
    for module in modules.values():
        if first(module.name) == "queues" or module.is_migration:
            continue
        for node in ast.walk(module.tree):
            opened = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "atomic"
            named = isinstance(node, ast.Attribute) and ast.unparse(node) == "transaction.atomic"
            imported = isinstance(node, ast.ImportFrom) and any(alias.name == "atomic" for alias in node.names)
            if opened or named or imported:
                yield (
                    f"{module.path}:{node.lineno} opens a transaction. There is one door: call a verb of queues/ that "
                    "does the whole thing, or add one there."
                )


def vendor_sql(modules: dict[str, Module]) -> Iterator[str]:
    """What differs between databases is known in three files: database.py, statements.py and fitness.py of queues/."""
    for module in modules.values():
        if module.name in DATABASE_ROOMS or module.is_migration:
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("cursor", "execute", "executemany", "callproc"):
                    yield (
                        f"{module.path}:{node.lineno} speaks SQL by .{node.func.attr}(). Say it with the ORM, or give "
                        "queues/database.py a function with a name."
                    )
            elif any(is_vendor(part) for part in decisive_parts(node)):
                yield (
                    f"{module.path}:{node.lineno} asks which vendor the database is. Ask queues/database.py for the "
                    "feature instead, by name."
                )


def decisive_parts(node: ast.AST) -> list[ast.expr]:
    """The expressions on which this node's decision hangs."""
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.Match):
        return [node.subject]
    if isinstance(node, ast.Subscript):
        return [node.slice]
    return []


def is_vendor(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "vendor"


def giants(modules: dict[str, Module]) -> Iterator[str]:
    """No file is longer than what one sitting can read."""
    for module in modules.values():
        lines = len(module.source.splitlines())
        if lines > LONGEST_FILE and not module.is_migration:
            yield (
                f"{module.path} has {lines} lines, {LONGEST_FILE} are the most. Which of its ideas could have a file "
                "of its own, named after it?"
            )


def code_from_text(modules: dict[str, Module]) -> Iterator[str]:
    """Nothing is ever unpickled, evaluated or imported by what a row says: a row names only what the registry has."""
    for module in modules.values():
        for item in module.imports:
            if item.target.split(".")[0] in SERIALIZERS:
                yield f"{module.path}:{item.line} imports {item.target}, whose data can be code. Use JSON."
        if module.name in MAY_IMPORT_BY_NAME or module.is_migration:
            continue
        for node in ast.walk(module.tree):
            named = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            used = [node.id] if isinstance(node, ast.Name) else []
            if isinstance(node, ast.Attribute) and node.attr != "compile":  # re.compile makes no code
                used = [node.attr]
            for name in {*named, *used} & CODE_FROM_TEXT:
                yield (
                    f"{module.path}:{getattr(node, 'lineno', 0)} knows {name}, which makes code of a text. Ask the "
                    "registry for a pipeline by its id; if the text is a setting, say so in MAY_IMPORT_BY_NAME."
                )


RULES = [code_from_text, floors, cycles, hidden_imports, reserved_libraries, transactions, vendor_sql, giants]
Rule = Callable[[dict[str, Module]], Iterator[str]]


@pytest.fixture(scope="module")
def package() -> dict[str, Module]:
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    assert files, f"{PACKAGE} has no files: is this test in the right place?"
    return parse({str(path.relative_to(ROOT)): path.read_text() for path in files})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_stands(rule: Rule, package: dict[str, Module]) -> None:
    broken = sorted(set(rule(package)))
    assert not broken, f"{rule.__doc__}\n\n" + "\n\n".join(broken)


# Each rule bites


BROKEN = [
    (floors, {"conf.py": "from pipeteer_django.queues import claim", "queues/claim.py": ""}, "not a floor below"),
    (floors, {"worker/loop.py": "import pipeteer_django.live.bridge"}, "not a floor below"),
    (floors, {"pipelines/loop.py": "from ..queues.claim import claim"}, "imports pipeteer_django.queues.claim"),
    (floors, {"worker/loop.py": "try:\n    from pipeteer_django import quad\nfinally: pass"}, "the public face"),
    (cycles, {"queues/a.py": "from . import b", "queues/b.py": "from .a import x"}, "queues.a -> "),
    (hidden_imports, {"worker/loop.py": "def run():\n    import os"}, "inside run()"),
    (hidden_imports, {"apps.py": "def helper():\n    import os"}, "inside helper()"),
    (hidden_imports, {"queues/a.py": "def f():\n    import_module('pipeteer_django.queues.b')"}, "inside f()"),
    (
        floors,
        {"conf.py": "x = import_string('pipeteer_django.queues.claim.claim')"},
        "not a floor below",
    ),
    (reserved_libraries, {"worker/loop.py": "import zmq.asyncio"}, "only wakeups/"),
    (reserved_libraries, {"admin.py": "from channels.layers import x"}, "only live/"),
    (transactions, {"worker/loop.py": "with transaction.atomic():\n    pass"}, "one door"),
    (transactions, {"worker/loop.py": "with db.atomic(using='x'):\n    pass"}, "one door"),
    (transactions, {"admin.py": "@transaction.atomic\ndef f(): ..."}, "one door"),
    (transactions, {"admin.py": "from django.db.transaction import atomic"}, "one door"),
    (vendor_sql, {"checks.py": "if connection.vendor == 'sqlite': ..."}, "which vendor"),
    (vendor_sql, {"checks.py": "x = {'sqlite': 1}[connection.vendor]"}, "which vendor"),
    (vendor_sql, {"queues/claim.py": "connection.cursor().execute('SELECT 1')"}, "speaks SQL by .cursor()"),
    (code_from_text, {"queues/claim.py": "import pickle"}, "can be code"),
    (code_from_text, {"queues/claim.py": "from marshal import loads"}, "can be code"),
    (code_from_text, {"queues/claim.py": "def f(row):\n    return eval(row.value)"}, "knows eval"),
    (code_from_text, {"queues/claim.py": "importlib.import_module(row.caller)"}, "knows import_module"),
    (code_from_text, {"admin.py": "from django.utils.module_loading import import_string as f"}, "knows import_string"),
    (code_from_text, {"admin.py": "f = builtins.exec"}, "knows exec"),
    (code_from_text, {"admin.py": "compile(row.value, 'x', 'eval')"}, "knows compile"),
    (giants, {"queues/claim.py": "\n" * 401}, "401 lines"),
]
SOUND = {
    "__init__.py": "def __getattr__(name):\n    from pipeteer_django.queues import claim",
    "conf.py": "from .exceptions import X",
    "exceptions.py": "",
    "models.py": "",
    "admin.py": "",
    "apps.py": "def ready(self):\n    from pipeteer_django import checks\n    import_module('pipeteer_django.admin')",
    "checks.py": "from pipeteer_django.admin import X\nlog(connection.vendor)",
    "pytest_plugin.py": "def fixture():\n    import django",
    "pipelines/pipeline.py": "if TYPE_CHECKING:\n    from pipeteer_django.queues.claim import Claim",
    "queues/__init__.py": "",
    "queues/claim.py": "from pipeteer_django.models import Queue\nwith transaction.atomic(): run(pipeline.atomic)",
    "queues/database.py": "if connection.vendor == 'sqlite': connection.cursor()",
    "queues/peek.py": "ID = re.compile('x')\nmodule.executed = []",
    "wakeups/proxy.py": "import zmq\nfrom pipeteer_django import conf",
    "migrations/0001_initial.py": "\n" * 500,
}


def inside(sources: Sources) -> Sources:
    return {f"{PACKAGE}/{path}": source for path, source in sources.items()}


@pytest.mark.parametrize(("rule", "sources", "sentence"), BROKEN)
def test_a_broken_house_is_noticed(rule: Rule, sources: Sources, sentence: str) -> None:
    assert any(sentence in text for text in rule(parse(inside(sources))))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_house_is_left_in_peace(rule: Rule) -> None:
    assert list(rule(parse(inside(SOUND)))) == []
