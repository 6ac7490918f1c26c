"""A request to stop is heard even where Python drops the exception that it was raised as."""

import os
import signal
import subprocess
import sys

import pytest

LOST = """
import os, signal, sys, time
from bnadapt.interruption import check_for_stop, heed_signals

class Careless:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):
            pass  # the handler runs here, and what it raises is dropped

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
    program = LOST.format(name=name, alarms=alarms)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50
    )
    assert "dropped" in result.stdout
    assert result.returncode == code, result.stderr
    assert result.stderr == ""


def test_what_else_python_drops_is_printed() -> None:
    program = "from bnadapt.interruption import heed_signals\nheed_signals(143)\n"
    program += "class Careless:\n def __del__(self): raise OSError('no matter')\nCareless()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "OSError: no matter" in result.stderr
    assert result.returncode == 0


def test_without_a_request_nothing_stops() -> None:
    from bnadapt.interruption import check_for_stop

    before = signal.getsignal(signal.SIGINT), os.getpid()
    check_for_stop()
    assert (signal.getsignal(signal.SIGINT), os.getpid()) == before


HELD_BACK = """
import os, signal, sys, time
import bnadapt.interruption
from bnadapt.interruption import heed_signals, stops_held_back

bnadapt.interruption.SECONDS_HELD_BACK = {seconds}
heed_signals(143)
try:
    with stops_held_back():
        with stops_held_back():
            for _ in range({times}):
                os.kill(os.getpid(), signal.{name})
            for _ in range(20):
                time.sleep(0.05)
            print("inner", flush=True)
        print("outer", flush=True)
    print("after", flush=True)
except KeyboardInterrupt:
    for _ in range(10):
        time.sleep(0.05)  # nothing is asked for once more
    sys.exit(130)
"""


@pytest.mark.fault(
    "process: Ctrl-C or SIGTERM while a result is being recorded",
    "recorded first; heard then, or after five seconds",
)
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize(
    ("seconds", "times", "printed"),
    [
        (60, 1, ["inner", "outer"]),
        (60, 3, ["inner", "outer"]),
        (0.3, 2, []),
        (60, 0, ["inner", "outer", "after"]),
    ],
    ids=["once", "often", "lasts too long", "never"],
)
def test_a_request_waits_for_the_end_of_what_it_must_not_disturb(
    name: str, code: int, seconds: float, times: int, printed: list[str]
) -> None:
    program = HELD_BACK.format(name=name, seconds=seconds, times=times)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.stdout.split() == printed
    assert result.returncode == (code if times else 0), result.stderr
