"""The picture of a question, drawn from questions made by hand."""

import io
from dataclasses import dataclass, field

import pytest
from rich.cells import cell_len
from rich.console import Console

from search_lib.asking.live import LivePath, LiveQuestion
from search_lib.asking.outcome import Candidate
from search_lib.asking.screen import Screen, fit


@dataclass
class Tree:
    """What a screen needs of a `LiveTree`."""

    repetition: int
    shown: list[LivePath] = field(default_factory=list)
    is_done: bool = False
    has_begun: bool = True
    num_tokens: int = 240
    version: int = 0

    def paths(self):
        return self.shown

    def token_ids(self, node):
        return [node] * 100


def path(node, value, state, round=2, num_tokens=36):
    return LivePath(node, round, num_tokens, value, state)


RUNNING = [
    path(0, 0.75, "running"),
    path(1, 0.5, "waiting"),
    path(2, None, "dropped", 1, 24),
    path(3, 0.25, "dropped"),
]
DONE = [path(0, 0.9, "finished"), path(1, 0.1, "dropped")]
VOTE = [Candidate("7", 3, 1.5, 0.75, (0, 0)), Candidate("1/2", 1, 0.5, 0.25, (0, 1))]


def question(*trees, num_trees=None, vote=()):
    return LiveQuestion(num_trees or len(trees), {one.repetition: one for one in trees}, list(vote))


def console_of(width, height, encoding="utf-8", **settings):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=width, height=height, legacy_windows=False, **settings)
    return console


def screen_of(console, text="What is it?", decode=lambda ids: f"so {ids[0]} it is"):
    return Screen(console, text, decode, "WMV")


def printed(console, picture):
    """The lines that a picture takes on a terminal."""
    console.print(picture)
    console.file.flush()
    return console.file.buffer.getvalue().decode(console.file.encoding).splitlines()


def drawn(live, width=80, height=24, **changes):
    console = console_of(width, height)
    return printed(console, screen_of(console, **changes).draw(live, 2.0))


def test_the_whole_picture_at_80_columns():
    live = question(Tree(0, DONE, is_done=True), Tree(1, RUNNING), num_trees=4, vote=VOTE)
    assert [line.rstrip() for line in drawn(live)] == [
        "What is it?",
        "",
        "  tree  round    tokens  best           paths",
        "     1      3       240  0.90  done     █",
        "▸    2      3       240  0.75  running  ▇▅",
        "  + 2 waiting",
        "",
        "Tree 2 · round 3",
        "  ━━━━━━━╸── 0.75  running       36  " + "so 0 it is",
        "  ━━━━━───── 0.50  waiting       36  " + "so 1 it is",
        "  ━━╸─────── 0.25  dropped       36  " + "so 3 it is",
        "  ──────────       dropped       24  " + "so 2 it is",
        "",
        "Vote · responses weighed by their values",
        "  7    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━──────────  75.0 %  3 responses",
        "  1/2  ━━━━━━━━━━──────────────────────────────  25.0 %  1 response",
        "",
        "1 of 4 trees · 480 tokens · 240 tokens/s · 2.0 s",
    ]


def test_at_120_columns_bars_are_longer_and_texts_have_more_room():
    live = question(Tree(0, RUNNING))
    lines = drawn(live, 120, 36, decode=lambda ids: "x" * 200)
    assert lines[6].startswith("  ━━━━━━━━━━━━──── 0.75  running       36  …xxx")
    assert len(lines[6]) == 119


MANY = [Tree(number, 3 * RUNNING + 20 * DONE) for number in range(40)]
LONG = [Candidate("答" * 60, 3, 1.0, 1 / 8, (0, 0))] * 8


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (80, 10), (40, 12), (30, 6), (200, 60)])
def test_no_picture_is_taller_or_wider_than_the_terminal(size):
    width, height = size
    live = question(*MANY, num_trees=64, vote=LONG)
    texts = {"text": "什么 " * 200, "decode": lambda ids: "什么\n" * len(ids)}
    lines = drawn(live, width, height, **texts)
    assert len(lines) < height
    assert max(map(cell_len, lines)) <= width - 1
    assert lines[-1].startswith("0 of 64 trees")


def test_of_too_many_trees_the_focused_and_the_best_that_run_are_shown_and_the_others_counted():
    trees = [Tree(number, DONE, is_done=True) for number in range(10)]
    trees += [Tree(10, RUNNING), Tree(11, [path(0, 0.8, "running"), *RUNNING])]
    lines = drawn(question(*trees, num_trees=20), 80, 18)
    assert [line.split()[:2] for line in lines[3:5]] == [["11", "3"], ["▸", "12"]]
    assert lines[5] == "  + 10 done, 8 waiting"


def test_of_too_many_answers_the_first_are_shown_and_the_others_counted():
    vote = [Candidate(str(number), 1, 0.1, 0.1, (0, 0)) for number in range(10)]
    lines = drawn(question(Tree(0, DONE), vote=vote), 80, 40)
    assert lines[-3] == "  + 5 more answers"


def test_texts_of_models_and_users_are_not_obeyed():
    planted = "[red]\x1b[31m\u202e\x07"
    vote = [Candidate(planted, 1, 1.0, 1.0, (0, 0))]
    text = "\n".join(
        drawn(question(Tree(0, RUNNING), vote=vote), text=planted, decode=lambda ids: planted)
    )
    assert not {"\x1b", "\x07", "\u202e"}.intersection(text)
    assert text.count(r"[red]\x1b[31m\u202e\x07") == 6


def test_a_long_question_has_two_lines():
    lines = drawn(question(Tree(0, RUNNING)), text="word " * 100)
    assert lines[1].endswith("…")
    assert lines[2] == ""


def test_a_tree_stays_in_focus_until_it_ends_then_the_best_that_runs_follows():
    first, second, third = (Tree(number, RUNNING) for number in range(3))
    third.shown = [path(0, 0.99, "running")]
    live, console = question(first, num_trees=3), console_of(80, 30)
    screen = screen_of(console)

    def focus():
        console.file.buffer.truncate(0)
        console.file.buffer.seek(0)
        lines = printed(console, screen.draw(live, 1.0))
        return [line for line in lines if line.startswith("Tree")]

    assert focus() == ["Tree 1 · round 3"]
    live.trees |= {1: second, 2: third}
    assert focus() == ["Tree 1 · round 3"]
    first.is_done = True
    assert focus() == ["Tree 3 · round 3"]


def test_what_is_below_the_focused_tree_stays_where_it_is():
    tree, console = Tree(0, RUNNING), console_of(80, 30)
    screen, live = screen_of(console), question(tree)
    before = len(screen.draw(live, 1.0).renderables)
    tree.shown, tree.version = RUNNING[:1], 1
    assert len(screen.draw(live, 1.0).renderables) == before


def test_paths_are_found_again_only_after_a_change():
    tree, console = Tree(0, RUNNING), console_of(80, 30)
    calls = []
    tree.paths = lambda: calls.append(tree.version) or RUNNING
    screen = screen_of(console)
    for _ in range(3):
        screen.draw(question(tree), 1.0)
    tree.version = 1
    screen.draw(question(tree), 1.0)
    assert calls == [0, 1]


def test_a_terminal_of_ascii_gets_ascii_alone():
    console = console_of(80, 30, encoding="ascii")
    screen = screen_of(console, text="什么?", decode=lambda ids: "é" * 200)
    lines = printed(console, screen.draw(question(Tree(0, RUNNING), vote=VOTE), 1.0))
    assert lines[0] == "??" + "?"
    assert lines[3] == ">    1      3       240  0.75  running  75"
    assert lines[6].startswith("  ########.. 0.75  running       36  ...???")


def test_without_colours_there_are_none():
    coloured = console_of(80, 30, force_terminal=True, color_system="standard")
    plain = console_of(80, 30, force_terminal=True, color_system="standard", no_color=True)
    texts = ["\n".join(printed(c, screen_of(c).draw(question(Tree(0, RUNNING)), 1.0)))
             for c in (coloured, plain)]  # fmt: skip
    assert "\x1b[36m" in texts[0]
    assert "\x1b[3" not in texts[1]


@pytest.mark.parametrize(
    ("wanted", "room", "expected"),
    [
        ((5, 4, 2), 20, [5, 4, 2]),
        ((30, 10, 2), 22, [10, 10, 2]),
        ((30, 10, 6), 5, [3, 3, 2]),
    ],
)
def test_sections_that_are_too_large_give_way(wanted, room, expected):
    assert fit(wanted, (3, 3, 2), room) == expected


def test_a_tree_that_has_just_begun_has_no_paths_yet():
    lines = drawn(question(Tree(0, num_tokens=0)))
    assert lines[3].split() == ["▸", "1", "0", "running"]
    assert "Tree 1 · first blocks" in lines


def test_before_the_first_tree_it_says_that_it_starts():
    assert "starting" in drawn(question(num_trees=4))
