"""What the stages do to a network, without recording any of it: pipelines, comparisons and searches share it."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras

from bnadapt.config import BASELINE, INSERT, STATISTICS, DataSettings, Settings, StageSettings
from bnadapt.data.splits import Split, Splits
from bnadapt.evaluation.results import Epoch, Scores
from bnadapt.evaluation.scores import largest_change, predict, score
from bnadapt.models.fit_to_data import fit_to_data
from bnadapt.normalization.policy import BATCH_NORM, HEAD
from bnadapt.normalization.statistics import calibrate
from bnadapt.rehearsal import find_chosen_sites, has_batch_norm
from bnadapt.start import Start
from bnadapt.surgery.insert import insert_batch_norm
from bnadapt.surgery.sites import INSERTED, Sites
from bnadapt.training.fit import Trained, momentum_for, train_stage
from bnadapt.training.progress import Display
from bnadapt.training.rate import RateTest


@dataclass(frozen=True)
class Listener:
    """What is told while a stage trains.

    Attributes:
        epoch: Of every epoch as soon as it is over, or of every look at the validation images, with the
            prefix of its metrics' keys: epochs on other data than the target do not belong on the same curve.
        policy: Of a table of every layer, what trains and what moves, before the first step.
        rate: Of a range test of the learning rate, where the stage asks for one.
    """

    epoch: Callable[[Epoch, str], None] = lambda epoch, prefix: None
    policy: Callable[[str], None] = lambda table: None
    rate: Callable[[RateTest], None] = lambda test: None


@dataclass(frozen=True)
class Insertion:
    """A network with batch normalization put into it.

    Attributes:
        network: A new network.
        sites: Where it went.
        change: Largest change of any output on the validation images.
        relative_change: The same in standard deviations of the outputs.
    """

    network: keras.Model
    sites: Sites
    change: float
    relative_change: float


@dataclass(frozen=True)
class Procedure:
    """The stages of a pipeline as functions from network to network.

    Attributes:
        settings: What was asked for.
        start: What it starts from.
        display: Shows the progress of training.
        fits: Where the state of a fit in progress is kept, a file each; what lies there is gone on with. None: nowhere.
    """

    settings: Settings
    start: Start
    display: Display = field(repr=False)
    fits: Path | None = None

    @property
    def splits(self) -> Splits:
        """The data adapted to."""
        return self.start.splits

    def train_baseline(self, network: keras.Model, listener: Listener) -> tuple[keras.Model, Trained]:
        """Train the network without batch normalization on the source; changes the network.

        Where the target has other classes, the network returned is a new one with a head for them, which is
        trained on the target.
        """
        trained = self._fit(network, BASELINE, self.start.baseline, listener, splits=self.start.source_splits)
        if self.start.new_head_for_target:
            keras.utils.set_random_seed(self.seed(HEAD))
            network = fit_to_data(network, self.splits.image_shape, len(self.splits.classes)).network
            head_only = replace(self.settings.baseline, train=[HEAD])
            trained = trained.then(
                self._fit(network, f"{BASELINE}/{HEAD}", head_only, listener, after=trained)
            )
        return network, trained

    def insert(self, network: keras.Model) -> Insertion:
        """Put batch normalization into a network, calibrated so that its outputs stay."""
        insertion, train = self.settings.insertion, self.splits.train
        validation = self.splits.validation.batches(self.settings.evaluation.batch_size)
        calibrated = insertion.init == "calibrated"
        sites = find_chosen_sites(network, self.settings.placement)
        steps_per_epoch = train.steps(self.settings.data.batch_size)
        before, _ = predict(network, validation)
        network = insert_batch_norm(
            network,
            sites,
            init="identity" if calibrated else "standard",
            gamma=insertion.gamma,
            epsilon=insertion.epsilon,
            momentum=momentum_for(steps_per_epoch) if insertion.momentum is None else insertion.momentum,
        )
        if calibrated and sites:
            on = self.start.source_splits if insertion.calibrate_on == "source" else self.splits
            images = on.unlabelled.mixed(self.settings.evaluation.batch_size, seed=self.seed(INSERT))
            calibrate(network, images, layers=f".*{INSERTED}.*", samples=insertion.samples)
        return Insertion(network, sites, *largest_change(before, predict(network, validation)[0]))

    def train(
        self,
        network: keras.Model,
        name: str,
        how: StageSettings,
        listener: Listener,
        after: Trained | None = None,
    ) -> Trained:
        """Train what a stage of the schedule declares on the target; changes the network.

        ``after`` is what the same network was trained before under the same name; its epochs are counted on.
        """
        if how.train in ([BATCH_NORM], [STATISTICS]) and not has_batch_norm(network):
            self.say(f"{name}: nothing to do, the network has no batch normalization")
            return Trained(0, (), 0, 0, ())
        trained = self._fit(network, name, how, listener, after=after)
        if how.train == [STATISTICS]:
            layers = {path.rpartition("/")[0] for path in trained.moved}
            self.say(
                f"{name}: new moving statistics in {len(layers)} batch normalization layers, without labels"
            )
        return trained

    def scores(self, network: keras.Model, split: Split) -> Scores:
        """Scores of a network on a split."""
        batches = split.batches(self.settings.evaluation.batch_size)
        return score(network, batches, from_logits=self.start.from_logits)

    def seed(self, name: str) -> int:
        """A seed for one stage, so that a stage does the same whichever stages ran before it."""
        return (self.settings.seed * 1_000_003 + zlib.crc32(name.encode())) % 2**31

    def say(self, text: str) -> None:
        """Print a line between the progress of stages."""
        self.display.console.print(text, soft_wrap=True)

    def _fit(
        self,
        network: keras.Model,
        name: str,
        how: StageSettings,
        listener: Listener,
        *,
        splits: Splits | None = None,
        after: Trained | None = None,
    ) -> Trained:
        splits = splits or self.splits
        elsewhere = splits is not self.splits
        done = len(after.history) if after else 0
        prefix = "source_" if elsewhere else ""
        return train_stage(
            network,
            splits,
            how,
            name=f"{name} on {splits.name}" if elsewhere else name,
            batch_size=self.settings.data.batch_size,
            evaluation_batch_size=self.settings.evaluation.batch_size,
            samples=self.settings.insertion.samples,
            from_logits=self.start.from_logits,
            seed=self.seed(name),
            display=self.display,
            on_policy=listener.policy,
            on_rate=listener.rate,
            on_epoch=lambda epoch: listener.epoch(replace(epoch, number=epoch.number + done), prefix),
            checkpoint=None if self.fits is None else self.fits / f"{name.replace('/', '-')}.checkpoint",
            every_steps=self.settings.checkpoints.every_steps,
            class_weights=self._data_of(splits).class_weights,
            rate_key=self._rate_key(name),
        )

    def _rate_key(self, name: str) -> str:
        """The setting that the learning rate of a fit comes from, by the fit's name, such as ``control/adapt``."""
        if self.settings.comparison.arms and not name.startswith(BASELINE):
            return "comparison.learning_rates"
        stage = name.rpartition("/")[2]
        return (
            f"schedule.{stage}.learning_rate" if stage in self.settings.schedule else "baseline.learning_rate"
        )

    def _data_of(self, splits: Splits) -> DataSettings:
        """The settings of the data that these splits are of."""
        source = self.settings.baseline_data
        return source if source is not None and splits is self.start.source_splits else self.settings.data
