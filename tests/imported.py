"""What the process imports that the tests' warm commands are forked from; it runs nothing of TensorFlow."""

import os

from bnadapt.startup import error_stream_filtered
from bnadapt.tracking.environment import prepare_environment

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
prepare_environment(telemetry=False)

with error_stream_filtered():
    import bnadapt.cli
    import bnadapt.cli.repetition
    import bnadapt.comparison.run
    import bnadapt.pipeline
    import bnadapt.search  # noqa: F401
