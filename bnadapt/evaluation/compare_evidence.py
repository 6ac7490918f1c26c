"""What advice after a comparison is drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass

from bnadapt.evaluation.arms import ArmResult, Comparison
from bnadapt.evaluation.compare import ByArm, behind


@dataclass(frozen=True)
class Level:
    """A comparison with one number of labels, and the results that it is of.

    Attributes:
        comparison: What it found.
        arms: The results of each arm, in the order of their seeds.
    """

    comparison: Comparison
    arms: ByArm

    @property
    def recommended(self) -> list[ArmResult]:
        """The results of the arm to use."""
        return self.arms[self.comparison.recommended]

    @property
    def rivals(self) -> list[list[ArmResult]]:
        """The results of the recommended arm, and of the reference where it is another and ran."""
        names = dict.fromkeys((self.comparison.recommended, self.comparison.reference))
        return [self.arms[name] for name in names if name in self.arms]

    @property
    def near(self) -> list[str]:
        """Other arms that are no more than one standard error behind the recommended one on validation."""
        found = {
            name: behind(self.recommended, each)
            for name, each in self.arms.items()
            if name != self.comparison.recommended
        }
        return [name for name, (distance, error) in found.items() if distance <= error]


@dataclass(frozen=True)
class Evidence:
    """What advice is drawn from.

    Attributes:
        levels: Every number of labels, the largest last; at least one.
        validation_limit: Validation images that the settings allow at most; None for no limit.
        training_images: Labelled images that arms train on with the fewest labels; None if unknown.
    """

    levels: Sequence[Level]
    validation_limit: int | None
    training_images: int | None

    @property
    def last(self) -> Level:
        """The largest number of labels."""
        return self.levels[-1]

    @property
    def validation_images(self) -> int:
        """Number of images that the arm was chosen on."""
        return self.last.recommended[0].validation.correct.size
