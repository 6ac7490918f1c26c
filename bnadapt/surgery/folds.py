"""What folds and what stays: plain data to look at before the network is rewritten."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

Direction = Literal["backward", "forward", "identity"]


@dataclass(frozen=True)
class Fold:
    """One batch normalization layer that can be merged into others without changing the function.

    Attributes:
        batch_norm: path of the layer, names joined by "/" through nested models.
        direction: "backward" into the linear layer (or batch normalization) that it follows, "forward" into
            all linear layers that follow it, "identity" where it changes nothing and is left out.
        into: paths of the layers that take it up.
        shift: whether a constant per channel is still added in its place, because the layers behind it pad
            with zeros, or because they would lose digits: a ``Rescaling`` layer without weights.
    """

    batch_norm: str
    direction: Direction
    into: tuple[str, ...]
    shift: bool = False


class Folds(Sequence[Fold]):
    """The folds in their order, immutable; ``staying`` gives a reason for every other batch normalization."""

    def __init__(self, folds: Sequence[Fold] = (), staying: Mapping[str, str] | None = None) -> None:
        """Hold folds, and the reasons why others stay by their paths."""
        self._folds = tuple(folds)
        self.staying = dict(staying or {})

    @overload
    def __getitem__(self, index: int) -> Fold: ...
    @overload
    def __getitem__(self, index: slice) -> "Folds": ...
    def __getitem__(self, index: int | slice) -> "Fold | Folds":
        """One fold, or a part of them."""
        return Folds(self._folds[index], self.staying) if isinstance(index, slice) else self._folds[index]

    def __len__(self) -> int:
        """The number of batch normalization layers that fold."""
        return len(self._folds)

    def __iter__(self) -> Iterator[Fold]:
        """The folds in the order in which they are done."""
        return iter(self._folds)

    def __eq__(self, other: object) -> bool:
        """Equal where folds and reasons are."""
        return isinstance(other, Folds) and self._folds == other._folds and self.staying == other.staying

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """One line per fold, then one per layer that stays."""
        width = max((len(path) for path in [*(fold.batch_norm for fold in self), *self.staying]), default=0)
        lines = [f"{len(self)} of {len(self) + len(self.staying)} batch normalization layers fold"]
        for fold in self:
            where = (
                f"{fold.direction} into {', '.join(fold.into)}" if fold.into else "left out: changes nothing"
            )
            shift = "; a shift by constants stays" if fold.shift else ""
            lines.append(f"  {fold.batch_norm:<{width}}  {where}{shift}")
        lines += [f"  {path:<{width}}  stays: {reason}" for path, reason in self.staying.items()]
        return "\n".join(lines)
