"""A request to stop is heard even where Python drops the exception that it was raised as, and waits where it should."""

import os
import signal
import subprocess
import sys

import pytest

ASKING = """
import atexit, os, signal, sys, threading, time
import bnadapt.interruption
from bnadapt.interruption import check_for_stop, heed_signals, stops_held_back

def ask(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.{name})

class Careless:
    def __init__(self, what=ask):
        self.what = what

    def __del__(self):
        self.what()
        for _ in range(1000):
            pass  # the handler runs here, and what it raises is dropped
"""
LOST = """
if not {alarms}:
    del signal.setitimer
heed_signals(143)
check_for_stop()
try:
    Careless()
    print("dropped", flush=True)
    if {alarms}:
        time.sleep(60)
    else:
        check_for_stop()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.fault(
    "process: Ctrl-C or SIGTERM where Python drops the exception",
    "asked for again, and heard",
)
@pytest.mark.parametrize("alarms", [True, False], ids=["alarms", "no alarms"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_dropped_request_is_made_again(name: str, code: int, alarms: bool) -> None:
    program = (ASKING + LOST).format(name=name, alarms=alarms)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50
    )
    assert "dropped" in result.stdout
    assert result.returncode == code, result.stderr
    assert result.stderr == ""


def test_what_else_python_drops_is_printed() -> None:
    program = "from bnadapt.interruption import heed_signals\nheed_signals(143)\n"
    program += "class Careless:\n def __del__(self): raise OSError('no matter')\nCareless()"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50
    )
    assert "OSError: no matter" in result.stderr
    assert result.returncode == 0


def test_without_a_request_nothing_stops() -> None:
    from bnadapt.interruption import check_for_stop

    before = signal.getsignal(signal.SIGINT), os.getpid()
    check_for_stop()
    assert (signal.getsignal(signal.SIGINT), os.getpid()) == before


HELD_BACK = """
def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)

def say(what):
    print(what, flush=True)

bnadapt.interruption.SECONDS_HELD_BACK = {limit}
heed_signals(143)
try:
    {program}
except KeyboardInterrupt:
    pass
except SystemExit as stop:
    assert stop.code == 143
else:
    sys.exit("nothing was heard")
with stops_held_back():
    work(2 * {limit} if {limit} < 1 else 0.1)
say("nothing is asked for once more")
try:
    with stops_held_back():
        ask()
        work(0.05)
        say("held")
except BaseException:
    say("heard")
"""
LATER = ["nothing is asked for once more", "held", "heard"]


@pytest.mark.fault(
    "process: Ctrl-C or SIGTERM while a result is being recorded",
    "recorded first; heard then, or after five seconds",
)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("limit", "program", "printed"),
    [
        pytest.param(
            60,
            """
    with stops_held_back():
        with stops_held_back():
            ask()
            work(0.1)
            say("inner")
        say("outer")
    say("not heard")""",
            ["inner", "outer"],
            id="at the end of the outermost",
        ),
        pytest.param(
            60,
            """
    with stops_held_back():
        ask(3)
        say("all of it")""",
            ["all of it"],
            id="often",
        ),
        pytest.param(
            0.4,
            """
    with stops_held_back():
        ask()
        work(0.1)
        say("in time")""",
            ["in time"],
            id="before the time is up",
        ),
        pytest.param(
            0.4,
            """
    with stops_held_back():
        ask()
        for _ in range(100):
            work(0.02)
            ask()
        say("lasts too long")""",
            [],
            id="when the time is up",
        ),
        pytest.param(
            0.4,
            """
    try:
        with stops_held_back():
            try:
                ask()
                work(2)
            finally:
                say("cleans up")
                ask()
                say("for too long")
    finally:
        say("out")""",
            ["cleans up", "out"],
            id="at once when the time was up",
        ),
        pytest.param(
            0.4,
            """
    with stops_held_back():
        ask()
        Careless(lambda: work(0.8))
        work(2)
        say("lasts too long")""",
            [],
            id="dropped when the time is up",
        ),
        pytest.param(
            0.4,
            """
    Careless()
    with stops_held_back():
        work(0.1)
        say("in time")
    say("not heard")""",
            ["in time"],
            id="dropped just before",
        ),
        pytest.param(
            60,
            """
    @stops_held_back()
    def elsewhere():
        ask()
        work(0.5)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    work(60)""",
            [],
            id="in another thread",
        ),
    ],
)
def test_a_request_waits_for_the_end_of_what_it_must_not_disturb(
    name: str, limit: float, program: str, printed: list[str]
) -> None:
    text = (ASKING + HELD_BACK).format(name=name, limit=limit, program=program)
    result = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=50
    )
    assert result.stdout.splitlines() == [*printed, *LATER], result.stderr
    assert result.stderr == ""


def test_a_request_that_is_dropped_at_the_end_does_not_kill_the_process() -> None:
    text = ASKING.format(name="SIGINT") + "heed_signals(143)\natexit.register(Careless)\n"
    text += "much = [[] for _ in range(3_000_000)]  # Python takes its time to end\n"
    result = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=50
    )
    assert result.returncode == 0, result.stderr
