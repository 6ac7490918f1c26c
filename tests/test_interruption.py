"""A request to stop is heard even where Python drops the exception that it was raised as."""

import os
import signal
import subprocess
import sys

import pytest

LOST = """
import os, signal, sys
from bnadapt.interruption import check_for_stop, heed_signals

class Careless:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):
            pass  # the handler runs here, and what it raises is dropped

heed_signals(143)
check_for_stop()
Careless()
print("dropped", flush=True)
try:
    check_for_stop()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.fault(
    "process: Ctrl-C or SIGTERM where Python drops the exception",
    "asked for again, and heard",
)
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_dropped_request_is_made_again(name: str, code: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LOST.format(name=name)], capture_output=True, text=True, check=False
    )
    assert "dropped" in result.stdout
    assert result.returncode == code, result.stderr


def test_without_a_request_nothing_stops() -> None:
    from bnadapt.interruption import check_for_stop

    before = signal.getsignal(signal.SIGINT), os.getpid()
    check_for_stop()
    assert (signal.getsignal(signal.SIGINT), os.getpid()) == before
