"""A value server that one run starts on this machine and ends."""

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from run_lib.children import child_environment
from run_lib.ports import free_port

START_SECONDS = 1800
"""A server that is not ready after this time hangs; the largest models take some minutes."""


class ValueServer:
    """SGLang with a value model, in a process of its own.

    Two SGLang engines in one process would share their configuration. So the value model gets a
    server beside the policy's engine, even in one run. It ends when this process does, also when
    that is killed.

    Args:
        model: Folder or Hub id of the value model.
        log_path: File for the server's output.
        arguments: Arguments of SGLang, besides those of `classifier_lib.serve`.

    Attributes:
        url: Its address, once `wait_until_ready` has returned.
        process: The server.
    """

    def __init__(self, model: str, log_path: Path, arguments: Sequence[str] = ()):
        self.model = model
        self.log_path = log_path
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "classifier_lib.serve", "--model", model]
        command += ["--end_with_parent", "--host", "127.0.0.1", "--port", str(port), *arguments]
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is this process's, which ends the server in order
            )

    def wait_until_ready(self) -> None:
        """Returns when the server answers.

        Raises:
            ValueError: With the reason from its log, if it ended or hangs; begins with the model.
        """
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                raise ValueError(
                    f"{self.model}: the value server ended while it started: "
                    f"{last_error(self.log_path)} (all of it: {self.log_path})"
                )
            try:
                with urllib.request.urlopen(f"{self.url}/ready", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        self.stop()
        raise ValueError(
            f"{self.model}: the value server was not ready after {START_SECONDS} s; "
            f"what it said: {self.log_path}"
        )

    def stop(self) -> None:
        """Ends the server; its requests fail."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()  # SGLang's own processes end with it
            self.process.wait()


def last_error(log_path: Path) -> str:
    """Returns the last line of a log that names an error; its last line if there is none."""
    lines = log_path.read_text(encoding="utf-8", errors="replace").split("\n")
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception): |.*: error: ", line)]
    said = errors or [line for line in lines if line.strip()] or ["it said nothing"]
    return said[-1].strip()
