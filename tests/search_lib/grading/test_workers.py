"""Workers of the grader: their limits, how they end, and the protocol between the processes."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from search_lib.grading import Grader
from search_lib.grading.grader import GradingStatistics
from tests.support.grading import (
    BOMB,
    MISBEHAVING_MATH_VERIFY,
    cpu_ticks,
    is_running,
    proc,
    signal_first_busy_worker,
)
from tests.support.paths import ROOT
from tests.support.waiting import wait_for


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


def test_past_the_time_limit_the_run_goes_on() -> None:
    with Grader(time_limit_s=1.0) as grader:
        assert grader.equivalent([("5", BOMB), (r"\max(1,2)", "2")]) == [False, True]
        assert grader.statistics == GradingStatistics(checked=2, timed_out=1)


def test_memory_bomb_stays_within_the_limit() -> None:
    with Grader(memory_limit_mb=100, time_limit_s=10.0) as grader:
        pairs = [("2", r"\max(1,2)"), ("5", r"\max(2^{10^{11}}, 1)")]
        assert grader.equivalent(pairs) == [True, False]
        (pid,) = grader.worker_pids
        status = dict(line.split(":", 1) for line in proc(pid, "status").splitlines())
        assert int(status["VmPeak"].split()[0]) <= 100 * 1024
        assert grader.equivalent([("3", r"\max(1,3)")]) == [True]


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


@pytest.mark.usefixtures("fake_math_verify")
def test_eight_hanging_answers_wait_for_one_time_limit_together() -> None:
    with Grader(time_limit_s=6.0) as grader:
        assert grader.equivalent([("r", "equal")]) == [True]
        start = time.monotonic()
        pairs = [("r", f"hang{number}") for number in range(8)]
        assert grader.equivalent([*pairs, ("r", "equals")]) == [False] * 8 + [True]
        assert time.monotonic() - start < 30.0  # 48 s one after the other
        assert grader.statistics.timed_out == 8
        assert len(grader.worker_pids) <= 1


@pytest.mark.usefixtures("fake_math_verify")
def test_of_a_pair_that_hangs_the_answer_at_fault_is_known() -> None:
    with Grader(time_limit_s=1.0) as grader:
        assert grader.equivalent([("r", "hang")]) == [False]
        assert grader.equivalent([("other", "hang")]) == [False]
        assert grader.equivalent([("r", "equal")]) == [True]
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


@pytest.mark.usefixtures("fake_math_verify")
def test_busy_worker_killed_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    signal_first_busy_worker(monkeypatch, signal.SIGKILL)
    with Grader() as grader:
        pairs = [("r", "equal1"), ("r", "equal2"), ("r", "equal1")]
        # The verdict of a worker that died is shared within the call and then forgotten.
        assert grader.equivalent(pairs) == [False, True, False]
        assert grader.statistics == GradingStatistics(checked=2, from_cache=1, crashed=1)
        assert grader.equivalent(pairs) == [True, True, True]


@pytest.mark.usefixtures("fake_math_verify")
def test_worker_ended_by_its_own_alarm_timed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    signal_first_busy_worker(monkeypatch, signal.SIGALRM)
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
grader.equivalent([("r", r"\\a"), ("r", r"\\b")])
print(*grader.worker_pids, flush=True)
if sys.argv[1] == "busy":
    grader.equivalent([("r", r"\\hang1"), ("r", r"\\hang2")])
sys.stdin.read()
"""


@pytest.mark.usefixtures("fake_math_verify")
@pytest.mark.parametrize("state", ["idle", "busy"])
def test_no_worker_outlives_a_killed_parent(state: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, state],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        if state == "busy":
            ticks = {pid: cpu_ticks(pid) for pid in pids}
            wait_for(lambda: all(cpu_ticks(pid) > ticks[pid] + 10 for pid in pids), "CPU time", 10)
        parent.kill()
    wait_for(lambda: not any(is_running(pid) for pid in pids), "ended workers", 15)


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
    assert not any(is_running(pid) for pid in pids)


def test_a_closed_grader_grades_nothing_and_can_be_closed_again() -> None:
    grader = Grader()
    grader.close()
    grader.close()
    with pytest.raises(RuntimeError, match="closed"):
        grader.equivalent([("1", "1")])


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("raise ImportError('no such wheel')", "no such wheel"),
        (
            MISBEHAVING_MATH_VERIFY.replace('{"x+x", "2x"}', "None"),
            "x[+]x equal to 2x within 2048 MiB",
        ),
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
