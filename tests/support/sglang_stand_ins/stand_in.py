"""Modules that have every name, for packages that SGLang imports and never calls on a CPU."""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType


class AnyMember(type):
    """A class in which every public name is there, as in an enum: it is the name itself."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("_"):
            raise AttributeError(name)
        return name


def take_anything(self, *args, **options) -> None:
    """The `__init__` of all stand-in classes."""


class StandIn(ModuleType):
    """A package in which every name can be imported.

    A capitalised name is an empty class (a base, an annotation, an enum), any other one a
    `StandIn`, which as a decorator changes nothing. A kernel of `sgl_kernel` refuses to run.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        full_name = f"{self.__name__}.{name}"
        if name[0].isupper():
            found = AnyMember(name, (), {"__init__": take_anything})
        else:
            found = sys.modules.setdefault(full_name, StandIn(full_name))
        setattr(self, name, found)
        return found

    def __call__(self, *args, **options):
        if self.__name__.startswith("sgl_kernel."):
            raise NotImplementedError(f"{self.__name__} has no CPU build")
        if len(args) == 1 and callable(args[0]) and not options:
            return args[0]  # @jit
        return lambda function: function  # @autotune(configs=...)


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes a `StandIn` of every submodule of one package."""

    def __init__(self, package: str):
        self.prefix = f"{package}."

    def find_spec(self, name, path=None, target=None):
        if name.startswith(self.prefix):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


def stand_in_for(package: str):
    """Serves all submodules of a package; returns the `__getattr__` of the package itself."""
    sys.meta_path.append(StandInFinder(package))
    return StandIn(package).__getattr__
