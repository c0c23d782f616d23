"""What README, docs and scripts say, and the commands in it."""

import re
import shlex

from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
DOCUMENTATION = "\n".join([README, *PAGES.values()])


def joined(text: str) -> str:
    """Shell text with a line for every command."""
    return text.replace("\\\n", " ")


def commands(text: str, program: str) -> list[list[str]]:
    """The arguments of every call of a program in shell text; of a loop those of its first turn."""
    lines = [
        line
        for line in map(first_turn, joined(text).splitlines())
        if re.search(rf"(?<=[ ]){program} +(--|[\"\w=]+/)", line)
    ]
    return [shlex.split(line.split(program, 1)[1]) for line in lines]


def first_turn(line: str) -> str:
    """The command of a loop over one line with the first value of its variable; else the line."""
    loop = re.fullmatch(r"for (\w+) in (\S+) .*; do (.*); done", line)
    return loop[3].replace(f"${loop[1]}", loop[2]) if loop else line
