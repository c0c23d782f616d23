"""SGLang's own arguments as flags: which there are, and their types."""

import difflib
import json
from collections.abc import Sequence
from typing import Any

from run_lib.commands import InputError

OWN_FLAGS = {
    "model_path": "the model",
    "mem_fraction_static": "--gpu_util",
    "tp_size": "--tp_size",
    "dp_size": "--dp_size",
}
"""Arguments that `--engine_args` must not set, because they have a flag."""


def server_arguments(settings: Sequence[str]) -> dict[str, Any]:
    """Returns the `key=value` pairs of `--engine_args` as typed arguments of SGLang.

    Args:
        settings: Pairs; a value is read by the type of its `ServerArgs` field, or as JSON.

    Raises:
        InputError: For text that is no pair, an unknown key, a key with a flag of its own, or a
            value of another type.
    """
    if not settings:
        return {}
    try:
        import msgspec  # SGLang's own way of typing them
        from sglang.srt.server_args import ServerArgs
    except Exception as error:  # whatever its dependencies come up with
        raise InputError(
            f"--engine_args: SGLang could not be imported: {type(error).__name__}: {error}"
        ) from error

    types = {field.name: field.type for field in msgspec.structs.fields(ServerArgs)}
    arguments: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals:
            raise InputError(f"--engine_args {setting}: not of the form key=value")
        if name in OWN_FLAGS:
            raise InputError(f"--engine_args {setting}: {name} is set with {OWN_FLAGS[name]}")
        if name not in types or name == "skip_tokenizer_init":
            near = difflib.get_close_matches(name, types)
            raise InputError(
                f"--engine_args {setting}: SGLang has no such argument"
                + (f"; near it: {', '.join(near)}" if near else "")
            )
        arguments[name] = _typed(setting, text, types[name])
    return arguments


def _typed(setting: str, text: str, kind: Any) -> Any:
    """Returns a value of `--engine_args` in the type of its field; InputError if it has none."""
    import msgspec

    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        try:
            return msgspec.convert(json.loads(text), kind)
        except (ValueError, msgspec.ValidationError):
            raise InputError(f"--engine_args {setting}: {error}") from error
