"""Flags of commands, as tests change them."""

import dataclasses
from typing import Any


def replace_flags(args: Any, **changes: Any) -> Any:
    """The flags with some changed, whichever of the nested dataclasses they are declared in."""
    for entry in dataclasses.fields(args):
        value = getattr(args, entry.name)
        if dataclasses.is_dataclass(value):
            own = {name: changes.pop(name) for name in list(changes) if hasattr(value, name)}
            if own:
                changes[entry.name] = dataclasses.replace(value, **own)
    return dataclasses.replace(args, **changes)
