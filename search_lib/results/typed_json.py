"""Dataclasses of what json.loads returns: strict about types, and quick for records of many parts.

A dataclass holds texts, numbers, other dataclasses, and lists of these. What reads a type is made
once, so that reading a value looks at it alone.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from run_lib.text import shorten

Kind = TypeVar("Kind")
Reader = Callable[[Any], Any]


class Misfit(ValueError):
    """A value isn't what its place holds. The message names the place, and says what is there.

    Args:
        fault: What is wrong; continues the place.
        place: Keys of objects and indices of lists that lead to it, the outermost first.
    """

    def __init__(self, fault: str, place: tuple[str | int, ...] = ()):
        super().__init__(fault, place)
        self._fault = fault
        self._place = place

    def within(self, key: str | int) -> "Misfit":
        """Returns this, as told of what holds the value."""
        return Misfit(self._fault, (key, *self._place))

    def __str__(self) -> str:
        keys = [f"[{key}]" if isinstance(key, int) else f".{key}" for key in self._place]
        place = shorten("".join(keys).removeprefix("."), 60)
        return f"{place}{self._fault}" if keys else self._fault.removeprefix(".")


def read_typed(kind: type[Kind], content: Any) -> Kind:
    """Makes a dataclass of its JSON.

    Raises:
        Misfit: If a key is unknown or missing, or a value is of another type or no finite number.
    """
    hint: Any = kind
    made: Kind = _reader(hint)(content)
    return made


@cache
def _reader(hint: Any) -> Reader:
    """Returns what reads values of a type."""
    if get_origin(hint) is list:
        return _list_reader(*get_args(hint))
    if is_dataclass(hint) and isinstance(hint, type):
        return _object_reader(hint)
    parts = _parts(hint)
    types = _scalar_types(parts)
    objects = [_object_reader(part) for part in parts if is_dataclass(part)]

    def read(value: Any) -> Any:
        kind = type(value)
        if kind is dict and objects:
            return objects[0](value)
        if kind not in types:
            raise Misfit(f" is a value of another type: {shorten(value, 60)}")
        if kind is float and not math.isfinite(value):
            raise Misfit(f" is {value}")
        return value

    return read


def _parts(hint: Any) -> tuple[Any, ...]:
    """Returns the types of a union; of another type, that one."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _scalar_types(parts: tuple[Any, ...]) -> frozenset[Any]:
    """Returns what values of a union may be. JSON knows one kind of number, and true is none."""
    types = frozenset(part for part in parts if not is_dataclass(part))
    return types | {int} if float in types else types


def _list_reader(kind: Any) -> Reader:
    read_item = _reader(kind)
    types = _scalar_types((kind,))
    plain = types - {float}

    def read(value: Any) -> Any:
        if type(value) is not list:
            raise Misfit(f" is a value of another type: {shorten(value, 60)}")
        # All alike at once: there are as many numbers as tokens.
        found = set(map(type, value))
        if found <= plain or (found == {float} <= types and all(map(math.isfinite, value))):
            return value
        items: list[Any] = []
        try:
            for item in value:
                items.append(read_item(item))
        except Misfit as misfit:
            raise misfit.within(len(items)) from None
        return items

    return read


def _object_reader(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    readers = {name: _reader(hint) for name, hint in hints.items()}
    # Of values of these types the reader would return what it is given.
    plain = {name: _scalar_types(_parts(hint)) - {float} for name, hint in hints.items()}
    required = [
        entry.name
        for entry in fields(kind)
        if entry.default is MISSING and entry.default_factory is MISSING
    ]

    def read(content: Any) -> Any:
        if type(content) is not dict:
            raise Misfit(" is not an object")
        if content.keys() != readers.keys():
            if unknown := [name for name in content if name not in readers]:
                raise Misfit(" is no key of a record", (unknown[0],))
            if missing := [name for name in required if name not in content]:
                raise Misfit(" is missing", (missing[0],))
        values, name = dict(content), ""
        try:
            for name, item in content.items():
                if type(item) not in plain[name]:
                    values[name] = readers[name](item)
        except Misfit as misfit:
            raise misfit.within(name) from None
        try:
            return kind(**values)
        except ValueError as error:
            raise Misfit(f".{error}") from error

    return read
