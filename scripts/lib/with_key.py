"""Runs a module as `python -m` does, with the key in API_KEY as its last argument, --api-key.

    API_KEY=... python scripts/lib/with_key.py sglang.launch_server [argument ...]

SGLang takes its key from the command line alone, which every user of a machine can read, and writes
all its arguments into its log. From here the key is in neither.
"""

import logging
import os
import runpy
import sys
from typing import Any


def run_with_key(module: str, key: str) -> None:
    """Runs a module as the program, with more arguments than the system knows of."""
    make_record = logging.getLogRecordFactory()
    as_printed = repr(key)[1:-1]  # within SGLang's arguments

    def mask(value: Any) -> Any:
        text = str(value)
        masked = text.replace(key, "***").replace(as_printed, "***")
        return value if masked == text else masked

    def make_masked_record(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = make_record(*arguments, **more)
        record.msg = mask(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(map(mask, record.args))
        return record

    logging.setLogRecordFactory(make_masked_record)
    sys.argv = [module, *sys.argv[2:], f"--api-key={key}"]
    sys.path[0] = os.getcwd()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run_with_key(sys.argv[1], os.environ["API_KEY"])
