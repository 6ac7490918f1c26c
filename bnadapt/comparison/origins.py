"""What arms start from: data, trained baselines, and those with batch normalization put in."""

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from bnadapt.comparison.arms import Repetition
from bnadapt.config import DataSettings, InsertionSettings, PlacementSettings, Settings, inserts
from bnadapt.data.load import load
from bnadapt.data.splits import Splits
from bnadapt.evaluation.results import Scores
from bnadapt.files import save
from bnadapt.models.load import load_file
from bnadapt.procedure import Procedure
from bnadapt.start import Start


@dataclass(frozen=True)
class Baseline:
    """A trained baseline: its file and the SHA-256 of its weights."""

    path: Path
    digest: str


@dataclass
class Networks:
    """What the arms of a repetition start from: the baseline, and the same with BN put in, each made once."""

    directory: Path
    repetition: Repetition
    start: Start
    baseline: Baseline
    scores: dict[Path, Scores] = field(default_factory=dict)

    def begun(self, procedure: Procedure) -> Scores:
        """Validation scores of the network that an arm with these settings starts from."""
        return self.scores[self.inserted(procedure)]

    def inserted(self, procedure: Procedure) -> Path:
        """The file of the network that an arm with these settings starts from."""
        path = self._path(procedure.settings)
        if path not in self.scores:
            network = load_file(self.baseline.path, procedure.settings.model)
            if path != self.baseline.path:
                network = procedure.insert(network).network
                save(network, path)
            self.scores[path] = procedure.scores(network, self.start.splits.validation)
        return path

    def _path(self, settings: Settings) -> Path:
        if not inserts(settings.placement):
            return self.baseline.path
        return self.directory / inserted_file(settings.placement, settings.insertion)


class Reader:
    """Reads data sets and keeps the last two: the source, which stays, and the target with its present labels."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._read: OrderedDict[str, Splits] = OrderedDict()

    def __call__(self, settings: DataSettings, image_shape: tuple[int, ...]) -> Splits:
        """The data set, as :func:`bnadapt.data.load.load` gives it."""
        key = repr((settings, image_shape))
        splits = self._read.pop(key, None) or load(settings, image_shape)
        self._read[key] = splits
        while len(self._read) > 2:
            self._read.popitem(last=False)
        return splits


def inserted_file(placement: PlacementSettings, insertion: InsertionSettings) -> str:
    """Name of the file of a baseline with batch normalization put in; arms differ in nothing else of these."""
    on_input = "_input" if placement.on_input else ""
    return f"inserted_{placement.position}{on_input}_{insertion.init}.keras"
