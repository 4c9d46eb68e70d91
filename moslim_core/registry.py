"""Whatever can be added is found here by its kind and name: one decorator, in one file, here or in a package of your own. (ours)

    @utility("squared")
    def squared(p, target): ...

A registry holds the objects that its decorator was put on. The library's own are below `home`: they are listed from the text there
(registered_names.py), and imported when they are asked for. Others come with plug-ins (plugins.py).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar

from moslim_core import plugins
from moslim_core.errors import UserError
from moslim_core.registered_names import LIBRARY, Declared, declared_in, first_line

T = TypeVar("T")
# As --set takes it, in lists too.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*\Z")


class Registry:
    """Things of one kind by name. `setting`: the key whose values are such names; `also`: names that it takes beside them, with what
    each means."""

    def __init__(self, kind: str, home: str, setting: str | None = None, also: dict[str, str] | None = None) -> None:
        self.kind, self.home, self.setting, self.also = kind, f"{LIBRARY}.{home}", setting or kind, also or {}
        self._things: dict[str, Any] = {}

    def __call__(self, name: str) -> Callable[[T], T]:
        """A decorator that registers a function or class, which gets the attribute `name`. Raises UserError for a name that is taken."""

        def register(thing: T) -> T:
            module, taken = thing.__module__, self.also.get(name) or self._module_of(name)
            if not _NAME.match(name):
                raise UserError(f"{self.kind} {name!r} in {module}: a name has lower-case letters, digits, _ and - only.")
            if taken not in (None, module):
                raise UserError(f"{self.kind} {name!r} in {module}: the name is taken ({taken}).\nGive it another.")
            thing.name = name  # type: ignore[attr-defined]
            self._things[name] = thing
            return thing

        return register

    @cached_property
    def own(self) -> dict[str, Declared]:
        """The library's, in the order of their modules and of their text."""
        return declared_in(self.home, self.kind)

    def _module_of(self, name: str) -> str | None:
        return self.own[name].module if name in self.own else getattr(self._things.get(name), "__module__", None)

    def listed(self) -> dict[str, str]:
        """{name: what it is}, those of plug-ins last. Raises UserError where a plug-in can't be imported."""
        plugins.load()
        others = {n: first_line(of.__doc__ or sys.modules[of.__module__].__doc__) for n, of in self._things.items() if n not in self.own}
        return {**self.also, **{name: of.about for name, of in self.own.items()}, **others}

    @property
    def names(self) -> list[str]:
        """In the order in which they are offered."""
        return list(self.listed())

    def __getitem__(self, name: str) -> Any:
        """The thing itself. Raises UserError where there is none."""
        plugins.load()
        if name in self.own:
            import_module(self.own[name].module)
        if name not in self._things:
            raise UserError(f"{name}: there is no such {self.kind}.\nThere are {', '.join(self.names)}.\nIs its plug-in installed here?")
        return self._things[name]

    def plugged(self, name: str) -> str | None:
        """The module that has it, if that is none of the library's."""
        plugins.load()
        return None if name in self.own else self._module_of(name)


utility = Registry("utility", "reward.mapping")
head = Registry("head", "reward.heads")
optimiser = Registry("optimiser", "policy.optimisers")
engine = Registry("engine", "policy.engines", also={"auto": "vllm where vllm_url is set, else the fastest that can"})
benchmark = Registry("benchmark", "evaluation.benchmarks", "suite", {"controllability": "control over the preferences, and fronts"})
baseline = Registry("baseline", "baselines")
source = Registry("source", "data.catalogue")
measure = Registry("measure", "preferences.measures", also={"pattern": "matches of the regular expression in `pattern`"})

KINDS = {registry.kind: registry for registry in (utility, head, optimiser, engine, benchmark, baseline, source, measure)}
