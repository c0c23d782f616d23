import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from math_verify import LatexExtractionConfig, parse, verify

from search_lib.grading import Grader, extract_answer
from search_lib.grading import grader as grading
from search_lib.grading.answers import boxed_answers, parse_integer, parse_rational
from search_lib.grading.grader import GradingStatistics

PROJECT = Path(__file__).resolve().parents[3]
BOMB = "9^{9^{9^9}}"


# --- extraction -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"thought</think>so \boxed{33}.", "33"),
        (r"\boxed{1}</think>\boxed{2}", "2"),
        (r"a</think>\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{1}</think>no box", None),
        (r"unfinished \boxed{5}", None),
        (r"</think>\boxed{1} or \boxed{2}", "2"),
        (r"</think>\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"</think>\boxed{\sqrt{2^{3}}} {}", r"\sqrt{2^{3}}"),
        (r"</think>\boxed{\left\{1,2\right.} and }", r"\left\{1,2\right."),
        (r"</think>\boxed{ {x} " + "\n}", "{x}"),
        (r"</think>\boxed {5}", "5"),
        (r"</think>\\boxed{5}", "5"),
        (r"</think>\\\boxed{5}", "5"),
        (r"</think>} \boxed{5}", "5"),
        (r"</think>\boxed{x = \boxed{5}}", "5"),
        (r"</think>\boxed{6} then \boxed{7", "6"),
        (r"</think>\boxed{6} then \boxed{ {7}", "6"),
        (r"</think>\boxed{6 \boxed{7}", "7"),
        (r"</think>\boxed{6} then \boxed{}", None),
        (r"</think>\boxed{ }", None),
        (r"</think>\boxed 5", None),
        (r"</think>\fbox{5}", None),
        (r"</think>\boxedx{5}", None),
        ("</think>\\", None),
        ("", None),
    ],
)
def test_extract_answer(response: str, expected: str | None) -> None:
    assert extract_answer(response) == expected


def test_extract_answer_after_another_mark_or_none() -> None:
    assert extract_answer(r"\boxed{1} END \boxed{2}", after="END") == "2"
    assert extract_answer(r"\boxed{1}", after=None) == "1"
    assert extract_answer(r"\boxed{1}</think>", after=None) == "1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no box", []),
        (r"\boxed{1}, then \boxed{ \frac{1}{2} }.", ["1", r"\frac{1}{2}"]),
        (r"\boxed{x = \boxed{5}} and \boxed{}", ["5", ""]),
        (r"\boxed{6 \boxed{7} or \fbox{8}", ["7"]),
    ],
)
def test_boxed_answers(text: str, expected: list[str]) -> None:
    assert boxed_answers(text) == expected


@given(st.text(st.characters(exclude_characters="\\{}<")), st.text())
def test_extract_answer_finds_any_content(content: str, thought: str) -> None:
    response = f"{thought}</think>\\boxed{{{content}}}"
    assert extract_answer(response) == (content.strip() or None)


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 100_000,
        "\\boxed{" * 100_000 + "}" * 100_000,
        "\\boxed{{}" * 100_000,
        "\\" * 500_001,
        "\\boxed" + " " * 500_000,
        "\\boxed " * 100_000,
        "}" * 300_000 + "{" * 300_000,
    ],
    ids=lambda text: text[:12],
)
def test_extract_answer_is_linear_on_hostile_text(text: str) -> None:
    start = time.process_time()
    extract_answer(text, after=None)
    assert time.process_time() - start < 3.0  # 0.2 s; minutes if it were quadratic


# --- integers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("33", 33),
        (" 033\n", 33),
        ("000", 0),
        ("-0", 0),
        ("+7", 7),
        ("-7", -7),
        ("- 7", -7),
        ("$33$", 33),
        ("$ 33 $", 33),
        ("$5", 5),
        (r"\$5", 5),
        ("1,234", 1234),
        ("-1,234,567", -1234567),
        ("1{,}234", 1234),
        (r"1,\!234", 1234),
        (r"1\,234", 1234),
        ("33.", 33),
        ("33.0", 33),
        ("1,234.00", 1234),
        ("33.5", None),
        ("33.01", None),
        (".0", None),
        ("1,23", None),
        ("1234,567", None),
        ("0,123", None),
        ("1,,234", None),
        (",123", None),
        ("1 234", None),
        ("+-3", None),
        ("--3", None),
        ("1e3", None),
        ("0x10", None),
        ("1_000", None),
        ("\u0663", None),
        ("\uff13", None),
        ("3\u00b2", None),
        (r"\text{3}", None),
        ("x", None),
        ("-", None),
        ("", None),
        ("$", None),
        ("1" * 4_000, int("1" * 4_000)),
        ("1" * 4_001, None),
        ("0" * 100_000 + "33", 33),
        ("1" * 1_000_000, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_parse_integer(answer: str, expected: int | None) -> None:
    assert parse_integer(answer) == expected


@given(st.integers(), st.integers(0, 20), st.sampled_from(["", ".", ".0", ".000"]))
def test_parse_integer_reads_padded_integers(number: int, zeros: int, tail: str) -> None:
    sign = "-" if number < 0 else ""
    assert parse_integer(f"{sign}{'0' * zeros}{abs(number)}{tail}") == number


@given(st.integers())
def test_parse_integer_reads_thousands_separators(number: int) -> None:
    assert parse_integer(f"{number:,}") == number
    assert parse_integer(f"{number:,}".replace(",", "{,}")) == number


# --- what is equal --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(time_limit_s=10.0) as shared:
        yield shared


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("33", "033"),
        ("33", "$33.0$"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", "1/2"),
        (r"\dfrac{3}{4}", r"\tfrac34"),
        (r"2\frac{1}{2}", "2.5"),
        (r"2\sqrt{3}", r"\sqrt{12}"),
        (r"\log_2 8", "3"),
        ("120", "5!"),
        ("1000", "10^3"),
        ("(x+1)^2", "x^2+2x+1"),
        ("3+4i", "4i+3"),
        ("1/3", "0.333333"),
        ("x=3", "3"),
        ("5", "x=2+3=5"),
        ("x<3", "3>x"),
        ("x<3", r"(-\infty,3)"),  # math-verify's `verify` says so in one order only
        ("[0,1]", r"0\le x\le 1"),
        ("(1,2)", "(1, 2)"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("5,6", "6,5"),
        (r"\pm 3", "3,-3"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
        (r"\emptyset", r"\{\}"),
        ("33", r"33^\circ"),
        ("5", r"5\text{ cm}"),
        ("5", "5 apples"),
        ("5", r"\mathbf{5}"),
        (r"\text{Monday}", "Monday"),
        (r"\text{no solution}", r"\text{No solution}"),
        ("A", r"\text{(A)}"),
        # Lenient: a percentage is equal to its number and to its fraction, though these differ.
        (r"50\%", "50"),
        (r"50\%", "0.5"),
        # Lenient: an open interval, a pair and a set of two are not told apart.
        ("(5,6)", "5,6"),
        (r"\{5,6\}", "(5,6)"),
        # Wrong, but math-verify says so: bare words are products of letters, a space multiplies,
        # the base of a numeral is ignored.
        ("east", "seat"),
        ("0", "5 000"),
        ("1010", "1010_2"),
    ],
)
def test_equal(grader: Grader, reference: str, answer: str) -> None:
    assert grader.equivalent([(reference, answer)]) == [True]


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("33", "34"),
        ("3", "-3"),
        ("50", "0.5"),
        ("1/3", "0.33"),
        (r"\pi", "3.14"),
        ("x=3", "y=3"),
        ("2", "x^2=4"),
        ("x", "y"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        ("(0,1]", "[0,1)"),
        (r"\infty", r"-\infty"),
        (r"\text{Monday}", r"\text{Tuesday}"),
        (r"\text{east}", r"\text{seat}"),
        ("5", "5, 6"),
        ("5", r"\text{five}"),
        ("5", r"\text{the answer is } 5"),
        # Numbers inside text that is not mathematics do not count as the answer.
        ("7", "foo^ 7 bar_"),
        ("5", "the final answer is 5. I hope"),
        ("5", "^ final answer is $5$. I hope ^"),
        ("5", "$5$ answer: $5$ ^"),
        ("5", r"\frac{5}{^}"),
        ("6", r"5} \boxed{6"),
        # Right, but math-verify cannot read it.
        (r"\frac{1}{3}", r"0.\overline{3}"),
        (r"\frac{\pi}{2}", r"90^\circ"),
        ("1000", "1e3"),
        ("1/2", "½"),
        ("5", ""),
        ("", ""),
        (" ", "\n"),
        ("5", "\ud800"),
        ("5", "(" * 20),
        ("5", r"\frac" * 50),
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_different(grader: Grader, reference: str, answer: str) -> None:
    assert grader.equivalent([(reference, answer)]) == [False]


def test_model_text_is_not_evaluated(grader: Grader, tmp_path: Path) -> None:
    target = tmp_path / "x"
    code = f"__import__('os').mkdir('{target}')"
    assert grader.equivalent([("5", code), ("5", f"$5$ answer: {code}")]) == [False, False]
    assert not target.exists()


# --- what can be read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        "33",
        " 033 ",
        "$1,234$",
        "1" * 4_000,
        r"\frac{1}{2}",
        r"\frac12",
        "0.5",
        r"x^2-1",
        "x=3",
        r"2\le x<3",
        r"(-\infty,3]\cup[5,\infty)",
        "(1,2)",
        r"\{1,2\}",
        r"\emptyset",
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"30\text{ cm}^2",
        r"\boxed{5}",
        # Lenient: words are a product of letters, or one symbol.
        "Monday",
        r"\text{no solution}",
    ],
    ids=lambda text: text[:24],
)
def test_readable(grader: Grader, answer: str) -> None:
    assert grader.readable([answer]) == [True]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "1" * 4_001,
        "x+" * 1_000 + "x",
        r"\frac{5}{^}",
        r"\frac{1}{2",
        "1) 3; 2) 5",
        "foo^ 7 bar_",
        "½",
        "答案",
        "\ud800",
        r"0.\overline{3}",  # right, but math-verify cannot read it
    ],
    ids=lambda text: ascii(text)[:24],
)
def test_not_readable(grader: Grader, answer: str) -> None:
    assert grader.readable([answer]) == [False]


def test_reading_integers_starts_no_worker() -> None:
    with Grader() as grader:
        assert grader.readable(["7", "-1,234", "", "1" * 3_000]) == [True, True, False, True]
        assert grader.readable([]) == []
        assert grader.worker_pids == ()
        assert grader.statistics == GradingStatistics(fast_path=4)


def test_what_cannot_be_compared_in_time_cannot_be_read() -> None:
    with Grader(time_limit_s=1.0) as grader:
        assert grader.readable([BOMB, r"\frac12", BOMB]) == [False, True, False]
        assert grader.statistics == GradingStatistics(checked=2, timed_out=1, from_cache=1)
        start = time.monotonic()
        assert grader.readable([BOMB, r"\frac12"]) == [False, True]
        # It is known to be endless for every comparison, too.
        assert grader.equivalent([("x+3", BOMB)]) == [False]
        assert time.monotonic() - start < 0.5
        assert grader.statistics.timed_out == 1


# --- what needs no worker -------------------------------------------------------------------------


def test_integers_and_identical_strings_start_no_worker() -> None:
    with Grader() as grader:
        assert grader.equivalent(
            [
                ("33", "033"),
                ("33", "34"),
                (" x+y ", "x+y"),
                ("", ""),
                ("x", ""),
                ("x", "y" * 2_001),
                ("y" * 2_001, "y" * 2_001),
                ("1" + "0" * 2_500, "01" + "0" * 2_500),
            ]
        ) == [True, False, True, False, False, False, True, True]
        assert grader.equivalent([]) == []
        assert grader.worker_pids == ()
        assert grader.statistics == GradingStatistics(fast_path=8)


def test_import_stays_light() -> None:
    code = "import sys, json, search_lib.grading.grader; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, check=True, text=True
    )
    assert not {"torch", "math_verify", "sympy", "numpy"} & set(json.loads(result.stdout))


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_workers": 0},
        {"time_limit_s": 0.0},
        {"time_limit_s": float("nan")},
        {"time_limit_s": float("inf")},
        {"memory_limit_mb": 0},
    ],
    ids=str,
)
def test_rejects_bad_limits(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Grader(**arguments)


# --- limits with the real math-verify -------------------------------------------------------------


def test_time_limit_then_the_run_goes_on() -> None:
    with Grader(time_limit_s=1.0) as grader:
        assert grader.equivalent([("5", BOMB), (r"\frac12", "0.5")]) == [False, True]
        assert grader.statistics == GradingStatistics(checked=2, timed_out=1)
        start = time.monotonic()
        assert grader.equivalent([("5", BOMB)]) == [False]
        assert time.monotonic() - start < 0.5  # from the cache
        assert grader.statistics == GradingStatistics(checked=2, timed_out=1, from_cache=1)


def test_memory_bomb_stays_within_the_limit() -> None:
    with Grader(memory_limit_mb=100, time_limit_s=10.0) as grader:
        assert grader.equivalent([("2x", "x+x"), ("5", "2^{10^{11}}")]) == [True, False]
        (pid,) = grader.worker_pids
        status = dict(line.split(":", 1) for line in _proc(pid, "status").splitlines())
        assert int(status["VmPeak"].split()[0]) <= 100 * 1024
        assert grader.equivalent([(r"\frac12", "0.5")]) == [True]


# --- the protocol, with a stand-in for math-verify that misbehaves --------------------------------


_FAKE = """
import os, sys
def noise():
    print("noise")
    sys.stdout.flush()
    os.write(1, b"true\\n")
    assert sys.stdin.read() == "" and os.read(0, 1) == b""
noise()
def LatexExtractionConfig(**options):
    return None
def parse(text, configuration, **options):
    noise()
    return text[len("\\\\boxed{"):-1]
def verify(gold, target, timeout_seconds):
    noise()
    if {gold, target} == {"x+x", "2x"}:
        return True
    if "hang" in target:
        return 9**9**9 > 0  # one call of C code
    if "meet" in target:  # wait for the other worker
        open(target, "w").close()
        while not {"meet1", "meet2"} <= set(os.listdir()):
            pass
        return True
    if "exit" in target:
        os._exit(3)
    if "flood" in target:
        return sys.stdout.write("x" * 200_000) > 0 and sys.stderr.write("x" * 200_000) > 0
    if "raise" in target:
        raise ValueError(target)
    if "allocate" in target:
        return len(bytearray(150 << 20)) > 0
    if "environment" in target:
        return all(os.environ[f"{x}_NUM_THREADS"] == "1" for x in ("OMP", "MKL", "OPENBLAS"))
    return "equal" in target
"""


@pytest.fixture
def fake_math_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = tmp_path / "math_verify.py"
    module.write_text(_FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # The worker must find search_lib from any folder, and take nothing else from there.
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "json.py").write_text("raise ImportError('from the current folder')")
    monkeypatch.chdir(folder)
    return module


@pytest.mark.usefixtures("fake_math_verify")
def test_prints_and_exceptions_do_not_disturb_the_replies() -> None:
    with Grader() as grader:
        words = ["equal", "no", "raise", "flood", "environment", "equals"]
        verdicts = grader.equivalent([("r", word) for word in words])
        assert verdicts == [True, False, False, True, True, True]
        assert grader.statistics == GradingStatistics(checked=6)


@pytest.mark.usefixtures("fake_math_verify")
def test_crash_is_counted_and_the_next_pairs_are_checked() -> None:
    with Grader() as grader:
        pairs = [("r", "equal"), ("r", "exit"), ("r", "equals")]
        assert grader.equivalent(pairs) == [True, False, True]
        assert grader.statistics == GradingStatistics(checked=3, crashed=1)


@pytest.mark.usefixtures("fake_math_verify")
def test_crash_while_reading_is_counted_and_not_remembered() -> None:
    with Grader() as grader:
        for crashed in (1, 2):
            assert grader.readable(["exit"]) == [False]
            assert grader.statistics == GradingStatistics(checked=crashed, crashed=crashed)


@pytest.mark.usefixtures("fake_math_verify")
@pytest.mark.parametrize(("memory_limit_mb", "fits"), [(100, False), (2048, True)])
def test_memory_limit_is_the_one_asked_for(memory_limit_mb: int, fits: bool) -> None:
    with Grader(memory_limit_mb=memory_limit_mb) as grader:
        assert grader.equivalent([("r", "allocate"), ("r", "equal")]) == [fits, True]


@pytest.mark.usefixtures("fake_math_verify")
def test_stopped_worker_times_out() -> None:
    with Grader(time_limit_s=0.2) as grader:
        assert grader.equivalent([("r", "equal")]) == [True]
        os.kill(grader.worker_pids[0], signal.SIGSTOP)
        assert grader.equivalent([("r", "equals"), ("r", "equal2")]) == [False, True]
        assert grader.statistics == GradingStatistics(checked=3, timed_out=1)


def test_an_answer_that_never_ends_costs_its_time_limit_twice_and_no_more() -> None:
    tower = "9^{9^{9^9}}"
    others = [f"x+{number}" for number in range(2, 8)]
    with Grader(time_limit_s=1.0) as grader:
        assert grader.equivalent([(others[0], tower)]) == [False]
        started = time.monotonic()
        assert grader.equivalent([(other, tower) for other in others]) == [False] * 6
        assert time.monotonic() - started < 0.5
        assert grader.equivalent([(others[0], "2+x")]) == [True]
        assert grader.statistics.timed_out == 1


@pytest.mark.usefixtures("fake_math_verify")
def test_two_workers_keep_the_order_around_a_timeout() -> None:
    words = ["equal", "no", "hang", *(f"{'equal' if i % 3 else 'no'}{i}" for i in range(20))]
    with Grader(num_workers=2, time_limit_s=0.5) as grader:
        verdicts = grader.equivalent([("r", word) for word in words])
        assert verdicts == [word.startswith("equal") for word in words]
        assert grader.statistics == GradingStatistics(checked=23, timed_out=1)


@pytest.mark.usefixtures("fake_math_verify")
def test_two_workers_check_at_the_same_time() -> None:
    with Grader(num_workers=2) as grader:
        assert grader.equivalent([("r", "meet1"), ("r", "meet2")]) == [True, True]
        assert len(grader.worker_pids) == 2


@pytest.mark.usefixtures("fake_math_verify")
def test_idle_worker_killed_from_outside() -> None:
    with Grader() as grader:
        assert grader.equivalent([("r", "equal")]) == [True]
        (pid,) = grader.worker_pids
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert grader.equivalent([("r", "equals")]) == [True]
        assert grader.worker_pids != (pid,)
        assert grader.statistics == GradingStatistics(checked=2)


def _signal_first_busy_worker(monkeypatch: pytest.MonkeyPatch, signal_number: int) -> None:
    send = grading._Worker.send
    signalled: list[int] = []

    def send_and_signal(
        worker: grading._Worker, request: tuple[str, ...], time_limit_s: float
    ) -> bool:
        if signalled:
            return send(worker, request, time_limit_s)
        pid = worker.process.pid
        signalled.append(pid)
        os.kill(pid, signal.SIGSTOP)  # it cannot reply before it gets the signal
        sent = send(worker, request, time_limit_s)
        os.kill(pid, signal_number)
        os.kill(pid, signal.SIGCONT)
        return sent

    monkeypatch.setattr(grading._Worker, "send", send_and_signal)


@pytest.mark.usefixtures("fake_math_verify")
def test_busy_worker_killed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    _signal_first_busy_worker(monkeypatch, signal.SIGKILL)
    with Grader() as grader:
        pairs = [("r", "equal1"), ("r", "equal2"), ("r", "equal1")]
        # The verdict of a worker that died is shared within the call and then forgotten.
        assert grader.equivalent(pairs) == [False, True, False]
        assert grader.statistics == GradingStatistics(checked=2, from_cache=1, crashed=1)
        assert grader.equivalent(pairs) == [True, True, True]


@pytest.mark.usefixtures("fake_math_verify")
def test_worker_ended_by_its_own_alarm_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _signal_first_busy_worker(monkeypatch, signal.SIGALRM)
    with Grader() as grader:
        assert grader.equivalent([("r", "equal1"), ("r", "equal2")]) == [False, True]
        assert grader.statistics == GradingStatistics(checked=2, timed_out=1)


@pytest.mark.usefixtures("fake_math_verify")
def test_keyboard_interrupt_does_not_reach_the_workers() -> None:
    with Grader() as grader:
        grader.equivalent([("r", "equal")])
        assert os.getpgid(grader.worker_pids[0]) != os.getpgid(0)


@pytest.mark.usefixtures("fake_math_verify")
def test_interrupted_call_leaves_no_stale_reply() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with Grader(time_limit_s=60.0) as grader:
        previous = signal.signal(signal.SIGALRM, interrupt)
        try:
            grader.equivalent([("r", "no")])
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                grader.equivalent([("r", "hang"), ("r", "equal")])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
        assert grader.worker_pids == ()
        assert grader.equivalent([("r", "no"), ("r", "equal")]) == [False, True]


_PARENT = """
import sys
from search_lib.grading.grader import Grader
grader = Grader(num_workers=2, time_limit_s=1.0)
grader.equivalent([("r", "a"), ("r", "b")])
print(*grader.worker_pids, flush=True)
if sys.argv[1] == "busy":
    grader.equivalent([("r", "hang1"), ("r", "hang2")])
sys.stdin.read()
"""


@pytest.mark.usefixtures("fake_math_verify")
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_no_worker_outlives_a_killed_parent(state: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, state],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        if state == "busy":
            ticks = {pid: _cpu_ticks(pid) for pid in pids}
            _poll(lambda: all(_cpu_ticks(pid) > ticks[pid] + 10 for pid in pids), 10.0)
        parent.kill()
    _poll(lambda: not any(_is_running(pid) for pid in pids), 15.0)


SPELLINGS = (
    *("3/4", r"\frac{3}{4}", r"-\frac{3}{4}", r"\dfrac{6}{8}", "0.75", "0.7500001", "0.751"),
    *("1/3", "0.333333", "0.33333", "0.33", "7", "7.0", r"\frac{14}{2}", "-7", "$7$", "700%"),
    *(r"7\%", "0.07", "7/0", r"\frac{22}{7}", r"\pi", r"3.14159265", r"\sqrt{49}", r"2\sqrt{3}"),
    *(r"\sqrt{12}", "10^{400}", r"3+4i", r"\frac{1}{0}", "(3/4)", "x", "x=7", r"\{7\}"),
    *("(3, 7)", "(3,7.0)", "(7,3)", "(3,7,1)", r"(\sqrt{9}, 7)", "[3, 7]", "2^3", "8", "2^{10}"),
    *(
        "( 3,7 )",
        r"2 \sqrt {3}",
        r"\sqrt 2 3",
        r"\pi r",
        r"\pi  r",
        "1024",
        r"2\frac{1}{2}",
        "2.5",
        "1",
        r"1/2\pi",
        r"\frac{1}{2\pi}",
        r"\frac{\pi}{2}",
    ),
)


def test_shortcuts_decide_as_math_verify_does() -> None:
    """Fractions and decimals in this process, numbers far apart in a worker."""
    configuration = (
        LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False),
    )
    read = {
        text: parse(rf"\boxed{{{text.strip('$')}}}", configuration, extraction_mode="first_match")
        for text in SPELLINGS
    }
    pairs = [(a, b) for a in SPELLINGS for b in SPELLINGS if a != b]
    expected = [verify(read[a], read[b]) or verify(read[b], read[a]) for a, b in pairs]
    with Grader() as grader:
        verdicts = grader.equivalent(pairs)
        assert grader.statistics.fast_path > 250
    assert [p for p, v, e in zip(pairs, verdicts, expected, strict=True) if v != e] == []
    assert any(expected)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("3/4", Fraction(3, 4)),
        (r"-\dfrac{ 3 }{4}", Fraction(-3, 4)),
        (r"$\tfrac{3}{4}$", Fraction(3, 4)),
        ("-0.50", Fraction(-1, 2)),
        ("1,234", Fraction(1234)),
        *((text, None) for text in ("3/0", "3/", r"\frac{3}4", ".5", "1.2.3", "1e3", "", "x/2")),
        ("1/" + "7" * 5000, None),
    ],
)
def test_parse_rational(answer: str, value: Fraction | None) -> None:
    assert parse_rational(answer) == value


@pytest.mark.usefixtures("fake_math_verify")
def test_pairs_are_checked_once() -> None:
    with Grader() as grader:
        assert grader.equivalent([("r", "equal"), (" r", "equal "), ("r", "no")]) == [
            *(True, True, False),
        ]
        assert grader.statistics == GradingStatistics(checked=2, from_cache=1)
        assert grader.equivalent([("r", "no"), ("equal", "r"), ("3", "3")]) == [False, True, True]
        assert grader.statistics == GradingStatistics(checked=2, from_cache=3, fast_path=1)


@pytest.mark.usefixtures("fake_math_verify")
def test_cache_forgets_the_least_recent_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "_CACHE_REQUESTS", 2)
    with Grader() as grader:
        for answer in ("a", "b", "a", "c", "a", "b"):  # c pushes b out
            grader.equivalent([("r", answer)])
        assert grader.statistics == GradingStatistics(checked=4, from_cache=2)


@pytest.mark.usefixtures("fake_math_verify")
def test_calls_from_threads_take_turns() -> None:
    with Grader(num_workers=2) as grader, ThreadPoolExecutor(4) as threads:
        calls = [[("r", f"{word}{i}") for word in ("equal", "no")] for i in range(40)]
        assert list(threads.map(grader.equivalent, calls)) == [[True, False]] * 40


@pytest.mark.usefixtures("fake_math_verify")
def test_close_ends_the_workers() -> None:
    grader = Grader(num_workers=2)
    grader.equivalent([("r", "a"), ("r", "b")])
    pids = grader.worker_pids
    assert pids
    grader.close()
    grader.close()
    assert not any(_is_running(pid) for pid in pids)
    with pytest.raises(RuntimeError, match="closed"):
        grader.equivalent([("1", "1")])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raise ImportError('no such wheel')", "no such wheel"),
        (_FAKE.replace('{"x+x", "2x"}', "None"), "x[+]x equal to 2x within 2048 MiB"),
    ],
    ids=["import", "first check"],
)
def test_worker_that_cannot_start_is_an_error(
    fake_math_verify: Path, module: str, message: str
) -> None:
    fake_math_verify.write_text(module)
    with Grader() as grader, pytest.raises(RuntimeError, match=message):
        grader.equivalent([("r", "equal")])
    assert grader.worker_pids == ()


# --- helpers --------------------------------------------------------------------------------------


def _proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def _is_running(pid: int) -> bool:
    try:
        return _proc(pid, "stat").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _cpu_ticks(pid: int) -> int:
    return int(_proc(pid, "stat").rpartition(")")[2].split()[11])


def _poll(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
