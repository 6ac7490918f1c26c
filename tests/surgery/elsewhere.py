"""A process that has Keras and not this package: saved networks must load and compute the same there."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

LOADER = """
import sys
sys.modules["bnadapt"] = None  # importing it is an error from here on
import numpy as np, keras
for line in sys.stdin:
    file = line.strip()
    try:
        model = keras.models.load_model(file)
        stored = np.load(file + ".inputs.npz")
        flat = [stored[key] for key in stored.files]
        inputs = flat[0] if len(flat) == 1 else keras.tree.pack_sequence_as(model.input, flat)
        results = keras.tree.flatten(model(inputs, training=False))
        np.savez(file + ".outputs.npz", *map(keras.ops.convert_to_numpy, results))
        answer = f"loaded {len(model.weights)} weights"
        del model, results
        keras.backend.clear_session(free_memory=True)
    except Exception as error:
        answer = f"failed {type(error).__name__}: {str(error)[:500]!r}"
    print(answer, flush=True)
"""


class Elsewhere:
    """Starts the process on entry and ends it on exit."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __enter__(self) -> "Elsewhere":
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOADER],
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.directory / "messages.txt").open("w"),
            text=True,
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.communicate()

    def outputs(self, model: keras.Model, inputs: Any) -> list[np.ndarray]:
        """Save the model, load it over there, and return what it computes there."""
        file = self.directory / "network.keras"
        model.save(file)
        np.savez(f"{file}.inputs.npz", *keras.tree.flatten(inputs))
        self.process.stdin.write(f"{file}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == f"loaded {len(model.weights)} weights", (
            answer or (self.directory / "messages.txt").read_text()[-2000:]
        )
        stored = np.load(f"{file}.outputs.npz")
        return [stored[key] for key in stored.files]
