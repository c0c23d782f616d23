"""Settings of an output: saved beside it, so that a later run never mixes in others."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from run_lib.commands import InputError
from run_lib.files import read_json, write_json

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Settings:
    """What an output depends on.

    Attributes:
        flags: Values by flag, of JSON types.
        contents: By flag, a digest of what the flag names; None where that was not looked at, as on
            the Hub.
    """

    flags: Mapping[str, Any]
    contents: Mapping[str, str | None] = field(default_factory=dict)

    @classmethod
    def load(cls, document: Mapping[str, Any]) -> "Settings":
        """Reads what `document` returned.

        Raises:
            TypeError, ValueError, KeyError: If it is something else.
        """
        flags = dict(document)
        return cls(flags, dict(flags.pop("fingerprints")))

    def document(self) -> dict[str, Any]:
        """Returns the settings as they are saved: the flags, and the digests as `fingerprints`."""
        return {**self.flags, "fingerprints": dict(self.contents)}

    def differences(
        self, now: "Settings", free: Collection[str] = (), words: str = "was {}, now {}"
    ) -> list[str]:
        """Describes every flag that keeps outputs of two settings apart.

        Where both know the content that a flag names, the content decides: a folder may have moved.
        Else the value of the flag does, also where the content is gone since.

        Args:
            now: The settings asked for now.
            free: Flags that may differ.
            words: How the two values are told.
        """
        differing = []
        names = dict.fromkeys([*now.flags, *self.flags, *now.contents, *self.contents])
        for name in names:
            if name in free:
                continue
            values = self.flags.get(name), now.flags.get(name)
            contents = self.contents.get(name), now.contents.get(name)
            is_same = contents[0] == contents[1] if all(contents) else values[0] == values[1]
            if not is_same and values[0] != values[1]:
                differing.append(f"--{name} ({words.format(*map(repr, values))})")
            elif not is_same:
                differing.append(f"--{name} (its content has changed)")
        return differing


@dataclass(frozen=True)
class SettingsFile:
    """The settings saved beside an output, with which a later run goes on or is refused.

    Attributes:
        path: The JSON file.
        output: The output, for messages.
        advice: What to do instead of mixing settings, a sentence without its full stop.
        free: Flags that may differ.
        parse: Gets the settings out of the content of the file.
    """

    path: Path
    output: Path
    advice: str
    free: Collection[str] = ()
    parse: Callable[[dict[str, Any]], Settings] = Settings.load

    def read(self) -> Settings | None:
        """Reads the settings; returns None if there is no such file.

        Raises:
            InputError: If the file is damaged.
        """
        return read_document(self.path, self.parse)

    def check(self, settings: Settings) -> None:
        """Compares the settings of an output that isn't empty with those asked for now.

        Raises:
            InputError: Naming every flag that differs; or if nothing says what settings the output
                is of. It is left alone.
        """
        saved = self.read()
        if saved is None:
            raise InputError(
                f"{self.output} is not empty, and no {self.path.name} beside it says what it is "
                "of; it was left alone"
            )
        if differing := saved.differences(settings, self.free):
            raise InputError(
                f"{self.output} was made with other settings: {', '.join(differing)}. {self.advice}"
            )

    def bind(
        self, settings: Settings, is_empty: bool, document: Mapping[str, Any] | None = None
    ) -> None:
        """Saves the settings of a new output, or compares them with those of an earlier run.

        A run that never got as far as an output binds nobody.

        Args:
            settings: Settings asked for now.
            is_empty: Whether the output holds nothing yet.
            document: What is saved, if it is more than `settings.document()`.

        Raises:
            InputError: See `check`.
        """
        if is_empty:
            write_json(self.path, settings.document() if document is None else document)
        else:
            self.check(settings)


def read_document(path: Path, parse: Callable[[dict[str, Any]], Parsed]) -> Parsed | None:
    """Reads a JSON file of settings; returns None if there is none.

    Args:
        path: The file.
        parse: Makes of its content what is returned.

    Raises:
        InputError: If the file is damaged.
    """
    document = read_json(path)
    if document is None:
        return None
    try:
        return parse(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged, or of another version: {type(error).__name__}: {error}"
        ) from error


def free(default: Any = MISSING, secret: bool = False) -> Any:
    """Declares a flag that changes no result: it may differ between two starts of one run.

    Args:
        default: Value of the flag where it is left out; without one it must be given.
        secret: Whether its value, such as a key, is neither saved nor shown.
    """
    return field(default=default, metadata={"free": True, "secret": secret}, repr=not secret)


def free_flags(args: type | Any) -> frozenset[str]:
    """Returns the names of the flags of a dataclass, nested ones included, that `free` declares."""
    names: set[str] = set()
    for entry in fields(args):
        if is_dataclass(entry.type):
            names |= free_flags(entry.type)
        elif entry.metadata.get("free"):
            names.add(entry.name)
    return frozenset(names)


def as_json(value: Any) -> Any:
    """Returns flags as JSON types: dataclasses as flat objects, paths as text, tuples as lists.

    The fields of a dataclass within a dataclass stand among those of the outer one, as its flags do
    on the command line. Secret ones are left out.
    """
    if is_dataclass(value) and not isinstance(value, type):
        flat: dict[str, Any] = {}
        shown = [entry for entry in fields(value) if not entry.metadata.get("secret")]
        for name in (entry.name for entry in shown):
            content = getattr(value, name)
            if is_dataclass(content):
                flat |= as_json(content)
            else:
                flat[name] = as_json(content)
        return flat
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return value
