"""How TensorFlow is started."""

import subprocess
import sys

import pytest

DRAW = """
from bnadapt.startup import start_tensorflow
start_tensorflow(deterministic={deterministic})
import tensorflow
tensorflow.random.normal([1])  # draws from a generator of its own, which determinism forbids
"""


@pytest.mark.parametrize("deterministic", [True, False])
def test_determinism_is_asked_of_tensorflow_where_wanted(deterministic: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAW.format(deterministic=deterministic)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == deterministic, done.stderr
    assert ("Random ops require a seed" in done.stderr) == deterministic
