"""TensorFlow started without its start-up messages; everything else that it says stays."""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INFORMATION = re.compile(r"I0000 |WARNING: All log messages before absl::InitializeLog")
NO_DRIVER = re.compile(r"E0000 .*failed call to cuInit")


def start_tensorflow(deterministic: bool = False) -> None:
    """Import TensorFlow and let it look for devices, and keep what it writes meanwhile at level INFO to itself.

    TensorFlow 2.21 writes several such messages at every start, before it has read the variable that should
    silence them; they come from C++, past Python's streams. The complaint about a CUDA driver is dropped only
    where there is no NVIDIA device that could need one. With ``deterministic`` TensorFlow takes only kernels that give
    the same bits every time.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # Every stage is a network of its own and must be traced: the advice not to is none here.
    logging.getLogger("tensorflow").addFilter(
        lambda record: "tf.function retracing" not in record.getMessage()
    )
    with error_stream_filtered():
        import tensorflow

        tensorflow.config.list_physical_devices()
        if deterministic:
            tensorflow.config.experimental.enable_op_determinism()


@contextmanager
def error_stream_filtered() -> Iterator[None]:
    """Hold back what is written to the error stream in the block; at its end print all but TensorFlow's noise."""
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        stream = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stream, 2)
            os.close(stream)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines():
                if not _is_noise(line):
                    print(line, file=sys.stderr)


def _is_noise(line: str) -> bool:
    if INFORMATION.match(line):
        return True
    return bool(NO_DRIVER.match(line)) and not any(Path("/dev").glob("nvidia[0-9]*"))
