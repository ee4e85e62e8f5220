"""Sees, INSIDE a sandbox, whether tested code changed what decides about tests: pytest, its plugins, Python's builtins.

Its text is run in the process of the tests by ``test_runner``: it looks at everything before code of the package is
imported, at a test right before it is called, and at everything again when pytest has ended. It compares identities of
functions and of their code. It refuses what is known and is no wall: what runs in this process can change it as well.
"""

from __future__ import annotations

import builtins
import gc
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

DECISIVE: tuple[str, ...] = ("_pytest", "pluggy", "pytest", "unittest.case", "json", "hmac", "importlib._bootstrap")
DECISIVE += ("contextlib", "functools", "inspect", "types", "enum", "dataclasses", "collections", "operator", "weakref")
DECISIVE += ("traceback", "warnings", "re", "pathlib", "io", "abc", "textwrap", "pprint", "difflib", "fnmatch", "ast")
"""Modules with all below them, and the inside of their classes: those that decide, and what they rest on."""
ALSO = ("builtins", "os", "posix", "_json", "_operator", "_hashlib", "_imp", "marshal", "gc", "_io", "linecache")
"""Modules without the inside of their classes."""
INSIDE = ("__func__", "fget", "fset", "func", "__wrapped__")
"""Where what stands in for a function has it."""
MAY_CHANGE = {"__annotations__", "__annotations_cache__", "__signature__", "__doc__", "__slotnames__", "_"}
MAY_CHANGE |= {"_pytest_diamond_inheritance_warning_shown"}

Names = Mapping[str, Any]


class Guard:
    """What was there; ``changed`` says what is otherwise."""

    def __init__(self, reporter: object, tests: Sequence[str]) -> None:
        """See what is there, and where code of tests may come from: files and folders."""
        self._imported, self._from = _watch_imports(), tuple(tests)
        spaces = list(_spaces(type(reporter)))
        self._spaces = [(name, names, owner, dict(names), owner and owner.__mro__) for name, names, owner in spaces]
        functions = {id(one): one for _, names, _ in spaces for value in names.values() for one in _functions(value)}
        self._functions = {key: (one, *_parts(one)) for key, one in functions.items()}
        self._cells = list(_cells(type(reporter)))
        self._items: dict[int, tuple[Any, type, Any, Any]] = {}
        self._places: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._running, self._seen = "", set[str]()
        gc.freeze()  # what is frozen is not among gc.get_objects()

    def collected(self, items: Iterable[Any]) -> None:
        """See the tests, their modules and their classes before the first of them runs."""
        known = {id(owner) for *_, owner, _, _ in self._spaces}
        for item in items:
            function = getattr(item, "function", None)
            self._items[id(item)] = item, type(item), function, getattr(function, "__code__", None)
            for place in _places(item):
                if id(place) not in known | self._places.keys():
                    self._places[id(place)] = place, dict(vars(place))
                    own = [one for value in vars(place).values() for one in self._of_tests(value)]
                    self._functions |= {id(one): (one, *_parts(one)) for one in own}

    def called(self, item: Any) -> None:
        """See a test immediately before it is called: what is called is the function that was collected."""
        self._running = item.nodeid
        self._seen.update(self._test(item))
        function, instance = getattr(item, "obj", None), getattr(item, "instance", None)
        if id(item) not in self._items or getattr(function, "__func__", function) is not self._items[id(item)][2]:
            self._seen.add(f"the function of test {item.nodeid}")
        if instance is not None:
            hidden = [getattr(item.cls, name, None) for name in getattr(instance, "__dict__", ())]
            if type(instance) is not item.cls or any(map(_functions, hidden)):
                self._seen.add(f"the instance of test {item.nodeid}")

    def passed(self, test: str) -> None:
        """See that a test is told to have passed: the one that was called last, once."""
        if test != self._running:
            self._seen.add(f"a report of test {test}")
        self._running = ""

    def changed(self, reporter: Any) -> list[str]:
        """Return what is otherwise than it was, by name; and what should never be, by what it is."""
        found = ["the reporter" for cell, before in self._cells if cell.cell_contents is not before]
        found += ["the reporter"] if reporter.guard is not self else []
        found += [*self._names(), *self._codes(), *self._hooks(reporter.config.pluginmanager), *self._seen]
        found += [why for item, *_ in self._items.values() for why in self._test(item)]
        if sys.gettrace() is not None or sys.getprofile() is not None:
            found.append("a trace of all calls")
        return sorted(set(found))

    def _names(self) -> Iterator[str]:
        missing = object()
        for space, names, owner, before, bases in self._spaces:
            if owner is not None and owner.__mro__ is not bases:
                yield f"{space}.__mro__"
            for name, value in before.items():
                if names.get(name, missing) is not value and name not in MAY_CHANGE and (owner or _acts(value)):
                    yield f"{space}.{name}"
            for name in names.keys() - before.keys() - MAY_CHANGE:
                # A new name in a class is asked before the one that it hides; in a module, before a builtin.
                if owner is not None or name in vars(builtins):
                    yield f"{space}.{name}"

    def _codes(self) -> Iterator[str]:
        for function, *parts in self._functions.values():
            if any(now is not before for now, before in zip(_parts(function), parts, strict=True)):
                yield f"the code of {function.__module__}.{function.__qualname__}"

    def _hooks(self, manager: Any) -> Iterator[str]:
        """Plugins are pytest's own, ours, and the original ``conftest.py`` files."""
        import pluggy
        from pluggy._callers import _multicall

        if manager._inner_hookexec is not _multicall:
            yield "the calls of hooks"
        for name, caller in vars(manager.hook).items():
            if not isinstance(caller, pluggy.HookCaller):
                yield f"hook {name}"
                continue
            if getattr(caller._hookexec, "__func__", None) is not pluggy.PluginManager._hookexec:
                yield f"the calls of hook {name}"
            for impl in caller.get_hookimpls():
                function = getattr(impl.function, "__func__", impl.function)
                place = str(getattr(impl.plugin, "__file__", ""))
                code = getattr(function, "__code__", None)
                original = place.endswith("conftest.py") and getattr(code, "co_filename", "") == place
                if id(function) not in self._functions and not original:
                    yield f"a plugin for {name}"

    def _test(self, item: Any) -> Iterator[str]:
        """Yield what of a test, its module and its classes is otherwise than when it was collected."""
        known: Any = self._items.get(id(item)) or (None, None, None, None)
        _, kind, function, code = known
        module: Any = getattr(item, "module", None)
        if id(module) not in self._imported or self._imported[id(module)] is not module:
            yield f"the import of test {item.nodeid}"
        elif module.__spec__.origin != str(item.path):
            yield f"the file of test {item.nodeid}"
        if type(item) is not kind or {"runtest", "setup", "teardown"} & vars(item).keys():
            yield f"test {item.nodeid}"
        if code is None or function.__code__ is not code or not code.co_filename.startswith(self._from):
            yield f"the code of test {item.nodeid}"
        for place in _places(item):
            _, before = self._places.get(id(place), (None, vars(place)))
            now = vars(place)
            for name, value in before.items():
                if now.get(name) is not value and self._of_tests(value):
                    yield f"{place.__name__}.{name}"
            for name in now.keys() - before.keys() if isinstance(place, type) else ():
                if _acts(now[name]) and any(name in vars(base) for base in place.__mro__[1:]):
                    yield f"{place.__name__}.{name}"

    def _of_tests(self, value: Any) -> list[FunctionType]:
        return [one for one in _functions(value) if one.__code__.co_filename.startswith(self._from)]


def _places(item: Any) -> list[Any]:
    """Return where a test's functions are: its module, and its class with those above it."""
    module, kind = getattr(item, "module", None), getattr(item, "cls", None)
    return [one for one in (module, *(kind.__mro__ if kind else ())) if one is not None and one is not object]


def _watch_imports() -> dict[int, Any]:
    """Return a dict that gets the modules which pytest itself makes of files of tests, by identity."""
    from _pytest.assertion.rewrite import AssertionRewritingHook

    original, imported = AssertionRewritingHook.exec_module, dict[int, Any]()

    def exec_module(hook: Any, module: Any) -> None:
        imported[id(module)] = module
        original(hook, module)

    AssertionRewritingHook.exec_module = exec_module  # type: ignore
    return imported


def _spaces(*classes: type) -> Iterator[tuple[str, Names, type | None]]:
    """Yield the namespaces that decide: of modules, and of classes with the class."""
    seen: set[int] = set()
    wanted = list(classes)
    for name, module in list(sys.modules.items()):
        whole = any(name == one or name.startswith((f"{one}.", f"{one}_")) for one in DECISIVE)
        if whole or name in ALSO:
            yield name, vars(module), None
        if whole:
            wanted += [one for one in vars(module).values() if isinstance(one, type)]
    for one in wanted:
        if id(one) not in seen and one.__module__ not in ALSO:
            seen.add(id(one))
            yield f"{one.__module__}.{one.__qualname__}", vars(one), one


def _cells(*owners: type) -> Iterator[tuple[Any, object]]:
    """Yield what methods, and functions in them, have around them, and what it is; numbers are free to change."""
    todo, seen = [one for owner in owners for value in vars(owner).values() for one in _functions(value)], set[int]()
    while todo:
        function = todo.pop()
        seen.add(id(function))
        for cell in function.__closure__ or ():
            if not isinstance(cell.cell_contents, int):
                yield cell, cell.cell_contents
            todo += [one for one in _functions(cell.cell_contents) if id(one) not in seen]


def _functions(value: Any) -> list[FunctionType]:
    """Return the functions in Python that a value is or stands in for."""
    if type(value) is FunctionType:
        return [value]
    inside = [getattr(value, name, None) for name in INSIDE] if hasattr(type(value), "__get__") else []
    return [one for one in inside if type(one) is FunctionType]


def _parts(function: FunctionType) -> tuple[object, object, object]:
    return function.__code__, function.__defaults__, function.__kwdefaults__


def _acts(value: Any) -> bool:
    return callable(value) or hasattr(type(value), "__get__")
