"""A question on the terminal while its searches run: its trees, one of them in detail, the vote.

Texts of models and users are data: they become `rich` texts, never markup, of one line without
control characters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor

from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from run_lib.text import one_line
from search_lib.asking.live import LivePath, LiveQuestion, LiveTree
from search_lib.asking.outcome import Candidate, VoteName

MOST_QUESTION_LINES = 2
MOST_DROPPED = 3
"""Dropped paths that are shown of the focused tree."""
MOST_ANSWERS = 6
LEAST_ROWS = (3, 3, 2)
"""Of trees, the focused one and the vote, titles included, where the terminal is small."""

STYLES = {"running": "cyan", "waiting": "blue", "finished": "green", "dropped": "dim"}
"""Colours that are read on light and on dark terminals, by state of a path."""


@dataclass(frozen=True)
class Glyphs:
    """The characters that pictures are made of.

    Attributes:
        full: A cell of a bar.
        half: The first half of one; empty if there is none.
        track: A cell behind the end of a bar.
        levels: Values from 0 to 1.
        unknown: A path without a value.
        more: Stands for the rest of a text.
        dot: Between facts.
        focus: Marks the focused tree.
        is_ascii: Whether texts, too, must do with these.
    """

    full: str
    half: str
    track: str
    levels: str
    unknown: str
    more: str
    dot: str
    focus: str
    is_ascii: bool

    @classmethod
    def of(cls, console: Console) -> "Glyphs":
        """Returns those that a terminal shows."""
        return ASCII if console.options.ascii_only else UNICODE

    def bar(self, share: float, width: int, style: str) -> Text:
        """Returns a bar as long as a share of a width, and behind it the rest of the width."""
        steps = 2 if self.half else 1
        whole, part = divmod(
            min(max(round(share * width * steps), share > 0), width * steps), steps
        )
        filled = self.full * whole + self.half * part
        return Text().append(filled, style).append(self.track * (width - len(filled)), "dim")

    def level(self, value: float | None) -> str:
        """Returns the character of a value."""
        if value is None:
            return self.unknown
        return self.levels[min(floor(value * len(self.levels)), len(self.levels) - 1)]

    def line(self, text: str) -> str:
        """Returns a text on one line, without anything that a terminal would obey."""
        text = one_line(text)
        return text.encode("ascii", "replace").decode() if self.is_ascii else text

    def start(self, text: str, width: int) -> str:
        """Returns the beginning of a line that fits into so many cells."""
        if cell_len(text) <= width:
            return text
        room = max(0, width - len(self.more))
        text = text[:room]
        while cell_len(text) > room:
            text = text[:-1]
        return (text.rstrip() + self.more)[: max(0, width)]

    def tail(self, text: str, width: int) -> str:
        """Returns the end of a line that fits into so many cells."""
        if cell_len(text) <= width:
            return text
        room = max(0, width - len(self.more))
        text = text[len(text) - room :]
        while cell_len(text) > room:
            text = text[1:]
        return (self.more + text.lstrip())[: max(0, width)]


UNICODE = Glyphs("━", "╸", "─", "▁▂▃▄▅▆▇█", "·", "…", "·", "▸", is_ascii=False)
ASCII = Glyphs("#", "", ".", "0123456789", ".", "...", "-", ">", is_ascii=True)


class Screen:
    """Draws a question.

    Args:
        console: The terminal.
        question: What is asked.
        decode: Makes text of tokens.
        vote: How answers vote.
    """

    def __init__(
        self,
        console: Console,
        question: str,
        decode: Callable[[list[int]], str],
        vote: VoteName,
    ):
        self.glyphs = Glyphs.of(console)
        self._console = console
        self._question = self.glyphs.line(question)
        self._decode = decode
        self._vote = vote
        self._focus: int | None = None
        self._most_rows = 0
        self._paths: dict[int, tuple[int, list[LivePath]]] = {}

    def draw(self, live: LiveQuestion, seconds: float) -> Group:
        """Returns the picture, never taller than the terminal.

        Args:
            live: The question.
            seconds: Since its searches began.
        """
        width, height = self._console.size
        width = max(20, width - 1)
        heading = self._heading(width)
        focus = self._choose_focus(live)
        # As many as it ever had: what is below it stays where it is.
        self._most_rows = max(self._most_rows, 1 + self._num_focus_rows(focus))
        wanted = (
            1 + live.num_trees,
            self._most_rows,
            1 + max(1, min(len(live.vote), MOST_ANSWERS)),
        )
        room = max(1, height - 1)
        gaps = 4 if sum(LEAST_ROWS) + len(heading) + 5 <= room else 0
        rows = fit(wanted, LEAST_ROWS, room - len(heading) - 1 - gaps)
        sections = [
            self._tree_lines(live, focus, rows[0], width),
            self._focus_lines(focus, rows[1], width),
            vote_lines(live.vote, self._vote, self.glyphs, rows[2], width),
        ]
        lines = list(heading)
        for section in sections:
            lines += [Text()] * (gaps > 0) + section
        lines = lines[: room - 1 - (gaps > 0)] + [Text()] * (gaps > 0)
        lines.append(self._footer(live, seconds, width))
        for line in lines:
            line.truncate(width)
        return Group(*lines)

    def _heading(self, width: int) -> list[Text]:
        """Returns the question, shortened."""
        found = Text(self._question, style="bold").wrap(self._console, width)
        lines = [Text(line.plain.rstrip(), style="bold") for line in found]
        if len(lines) > MOST_QUESTION_LINES:
            rest = " ".join(line.plain for line in lines[MOST_QUESTION_LINES - 1 :])
            last = self.glyphs.start(rest, width)
            lines = [*lines[: MOST_QUESTION_LINES - 1], Text(last, style="bold")]
        return lines

    def paths(self, tree: LiveTree) -> list[LivePath]:
        """Returns the paths of a tree, found again only after it has changed."""
        known = self._paths.get(tree.repetition)
        if known is None or known[0] != tree.version:
            known = self._paths[tree.repetition] = tree.version, tree.paths()
        return known[1]

    def _alive(self, tree: LiveTree) -> list[LivePath]:
        return [path for path in self.paths(tree) if path.state != "dropped"]

    def _best(self, tree: LiveTree) -> float | None:
        """Returns the largest value of a path that is not dropped."""
        return max((p.value for p in self._alive(tree) if p.value is not None), default=None)

    def _interest(self, tree: LiveTree) -> tuple[bool, float]:
        """Ranks trees: those that run, then those with good paths."""
        best = self._best(tree)
        return tree.has_begun and not tree.is_done, -1.0 if best is None else best

    def _choose_focus(self, live: LiveQuestion) -> LiveTree | None:
        """Returns the tree to show in detail: the same until it ends, then the best that runs."""
        chosen = None if self._focus is None else live.trees.get(self._focus)
        if chosen is None or chosen.is_done:
            begun = [tree for tree in live.trees.values() if tree.has_begun]
            chosen = max(begun, key=self._interest, default=chosen)
        self._focus = chosen.repetition if chosen else None
        return chosen

    def _num_focus_rows(self, tree: LiveTree | None) -> int:
        if tree is None:
            return 1
        alive = len(self._alive(tree))
        dropped = len(self.paths(tree)) - alive
        return max(1, alive) + min(dropped, MOST_DROPPED) + (dropped > MOST_DROPPED)

    def _tree_lines(
        self, live: LiveQuestion, focus: LiveTree | None, rows: int, width: int
    ) -> list[Text]:
        """Returns a line a tree; where there are too many, the most interesting ones."""
        known = list(live.trees.values())
        shown, num_waiting = known, live.num_trees - len(known)
        if 1 + live.num_trees > rows:
            ranked = sorted(known, key=self._interest, reverse=True)
            if focus in ranked:
                ranked.remove(focus)
                ranked.insert(0, focus)
            shown = ranked[: max(1, rows - 2)]
        digits = max(4, len(str(live.num_trees)))
        names = f"  {'tree':>{digits}}  round    tokens  best  {'':7}  paths"
        lines = [Text(names, style="dim")]
        for tree in sorted(shown, key=lambda tree: tree.repetition):
            lines.append(self._tree_line(tree, tree is focus, digits, width))
        hidden = [tree for tree in known if tree not in shown]
        counts = {
            "running": sum(tree.has_begun and not tree.is_done for tree in hidden),
            "done": sum(tree.is_done for tree in hidden),
            "waiting": sum(not tree.has_begun for tree in hidden) + num_waiting,
        }
        if any(counts.values()):
            text = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            lines.append(Text(self.glyphs.start(f"  + {text}", width), style="dim"))
        return lines

    def _tree_line(self, tree: LiveTree, is_focus: bool, digits: int, width: int) -> Text:
        alive = self._alive(tree)
        rounds = max((path.round + 1 for path in self.paths(tree)), default=0)
        best = self._best(tree)
        state = "done" if tree.is_done else "running" if tree.has_begun else "waiting"
        style = STYLES[{"done": "finished"}.get(state, state)]
        line = Text(f"{self.glyphs.focus if is_focus else ' '} ")
        line.append(f"{tree.repetition + 1:>{digits}}", style="bold" if is_focus else "")
        of_best = "" if best is None else f"{best:.2f}"
        line.append(f"  {rounds or '':>5}  {tree.num_tokens:>8,}  {of_best:>4}  ")
        line.append(f"{state:<7}  ", style=style)
        room = max(1, width - cell_len(line.plain))
        for path in alive[: room if len(alive) <= room else room - 1]:
            line.append(self.glyphs.level(path.value), style=STYLES[path.state])
        if len(alive) > room:
            line.append("+", style="dim")
        return line

    def _focus_lines(self, tree: LiveTree | None, rows: int, width: int) -> list[Text]:
        """Returns the focused tree: its paths, with the ends of their texts."""
        if tree is None:
            return [Text("starting", style="dim")] + [Text()] * (rows - 1)
        alive = self._alive(tree)
        dropped = [path for path in self.paths(tree) if path.state == "dropped"]
        dropped.sort(key=lambda path: -path.round)
        rounds = max((path.round + 1 for path in self.paths(tree)), default=0)
        facts = f"round {rounds}" if rounds else "first blocks"
        title = Text(f"Tree {tree.repetition + 1}", style="bold")
        title.append(f" {self.glyphs.dot} {facts}", style="not bold dim")
        lines = [title]
        room = rows - 1
        some_alive = alive[: max(1, room - (len(alive) > room))]
        lines += [self._path_line(tree, path, width) for path in some_alive]
        room -= len(some_alive)
        some_dropped = dropped[: max(0, min(MOST_DROPPED, room - (len(dropped) > MOST_DROPPED)))]
        lines += [self._path_line(tree, path, width) for path in some_dropped]
        rest = {
            "alive": len(alive) - len(some_alive),
            "dropped": len(dropped) - len(some_dropped),
        }
        if any(rest.values()) and len(lines) < rows:
            text = ", ".join(f"{count} {name}" for name, count in rest.items() if count)
            lines.append(Text(f"  + {text}", style="dim"))
        return lines + [Text()] * (rows - len(lines))

    def _path_line(self, tree: LiveTree, path: LivePath, width: int) -> Text:
        size = 16 if width > 100 else 10
        style = STYLES[path.state]
        rest = "dim" if path.state == "dropped" else ""
        line = Text("  ")
        line.append_text(self.glyphs.bar(path.value or 0.0, size, style))
        value = "" if path.value is None else f"{path.value:.2f}"
        line.append(f" {value:>4}  ", style=rest)
        line.append(f"{path.state:<8}", style=style)
        line.append(f"  {path.num_tokens:>6,}  ", style=rest)
        room = width - cell_len(line.plain)
        ids = tree.token_ids(path.node)[-2 * max(1, room) :]
        # A cut may go through a character of several tokens.
        text = self.glyphs.line(self._decode(ids).lstrip("\ufffd"))
        line.append(self.glyphs.tail(text, room), style=rest)
        return line

    def _footer(self, live: LiveQuestion, seconds: float, width: int) -> Text:
        rate = live.num_tokens / seconds if seconds > 0 else 0.0
        facts = [
            f"{live.num_done} of {live.num_trees} trees",
            f"{live.num_tokens:,} tokens",
            f"{rate:,.0f} tokens/s",
            f"{seconds:,.1f} s",
        ]
        return Text(self.glyphs.start(f" {self.glyphs.dot} ".join(facts), width), style="dim")


VOTES = {
    "MV": "majority of the responses",
    "WMV": "responses weighed by their values",
    "BoN": "the response with the largest value",
}
"""What a vote goes by."""


def vote_lines(
    candidates: Sequence[Candidate], vote: VoteName, glyphs: Glyphs, rows: int, width: int
) -> list[Text]:
    """Returns the answers with bars of their shares, in so many rows and cells at most."""
    title = Text("Vote", style="bold")
    title.append(f" {glyphs.dot} {VOTES[vote]}", style="not bold dim")
    if not candidates:
        return [title, Text("  no answer yet", style="dim")]
    answers = [glyphs.line(one.answer) for one in candidates]
    column = min(max(map(cell_len, answers)), width // 3)
    size = min(40, width - column - 28)
    some = len(candidates) if len(candidates) <= rows - 1 else max(1, rows - 2)
    lines = [title]
    for place, (one, answer) in enumerate(zip(candidates[:some], answers, strict=False)):
        answer = glyphs.start(answer, column)
        line = Text("  ")
        line.append(answer + " " * (column - cell_len(answer)), "" if place else "bold")
        line.append("  ").append_text(glyphs.bar(one.share, size, "" if place else "green"))
        line.append(f" {100 * one.share:>5.1f} %  {num_of(one.num_responses)}")
        lines.append(line)
    if (rest := len(candidates) - some) and len(lines) < rows:
        lines.append(Text(f"  + {rest} more answers", style="dim"))
    return lines


def num_of(responses: int) -> str:
    """Returns a number of responses in words."""
    return f"{responses} response{'s' * (responses != 1)}"


def fit(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Returns rows for sections that share some room: the largest give way, down to their least."""
    rows = list(wanted)
    while sum(rows) > room:
        spare = [row - fewest for row, fewest in zip(rows, least, strict=True)]
        if max(spare) <= 0:
            break
        rows[spare.index(max(spare))] -= 1
    return rows
