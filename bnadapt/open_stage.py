"""One stage of a pipeline while it runs: what it records, and what it leaves."""

import time
from collections.abc import Callable

import keras

from bnadapt.artifacts import attempt
from bnadapt.evaluation.results import Scores, StageResult
from bnadapt.report.rate_test import rate_test
from bnadapt.report.style import png_of
from bnadapt.start import summary_of
from bnadapt.tracking.runs import StageRun
from bnadapt.training.rate import RateTest
from bnadapt.training.trained import Trained


class OpenStage:
    """One stage while it runs.

    Attributes:
        run: The stage's run in MLflow.
    """

    def __init__(
        self,
        name: str,
        run: StageRun,
        score: Callable[[keras.Model], Scores],
        keep: Callable[[keras.Model, StageResult], None],
    ) -> None:
        """Begin the stage's time; ``score`` scores networks on the validation images, ``keep`` keeps the last one."""
        self.run = run
        self._name = name
        self._score = score
        self._keep = keep
        self._start = time.monotonic()

    def log_rate_test(self, test: RateTest) -> None:
        """Record a range test of the learning rate: what it suggests and why, its losses, and a plot of them."""
        self.run.log_metrics({"found_learning_rate": test.suggestion})
        self.run.log_text("learning_rate.txt", test.explanation)
        rows = [
            {"learning_rate": rate, "loss": loss, "smoothed": smoothed}
            for rate, loss, smoothed in zip(test.rates, test.losses, test.smoothed, strict=True)
        ]
        self.run.log_table(rows, "learning_rate.csv")
        png = attempt(
            "the plot of the learning rates",
            lambda: png_of(rate_test(self._name, test.rates, test.losses, test.smoothed, test.suggestion)),
        )
        if png is not None:
            self.run.log_bytes("learning_rate.png", png)

    def log_start(self, network: keras.Model) -> None:
        """Record the validation scores before the first step, where the stage's curves begin."""
        scores = self._score(network)
        self.run.log_epoch(0, {"val_accuracy": scores.accuracy, "val_loss": scores.loss})

    def finish(
        self, network: keras.Model, trained: Trained | None = None, *, with_history: bool = True
    ) -> None:
        """Score the network on the validation images, and keep it and what its training left."""
        self.run.log_text("network.txt", summary_of(network))
        self._keep(
            network,
            StageResult(
                name=self._name,
                trainable=trained.trainable if trained else 0,
                steps=trained.steps if trained else 0,
                seconds=time.monotonic() - self._start + (trained.seconds_before if trained else 0),
                history=list(trained.history) if trained and with_history else [],
                validation=self._score(network),
                kept_epoch=trained.kept_epoch if trained else 0,
                learning_rate=trained.learning_rate if trained else None,
            ),
        )
