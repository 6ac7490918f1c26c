"""The repetition of a run from its id: the same settings again, and the weights compared bit by bit."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from bnadapt.cli.composition import recorded
from bnadapt.config import Settings
from bnadapt.errors import SettingsError
from bnadapt.repetition import Recorded, compare, differences, read
from bnadapt.tracking.store import Tracker


def repeat(task: Callable[[Settings], Callable[..., object]]) -> Callable[..., None]:
    """What does an earlier run again; ``task`` gives what does what settings ask for."""

    def perform(
        settings: Settings, run_directory: Path, *, command: Sequence[str], tags: dict[str, str]
    ) -> None:
        assert settings.repeat is not None
        console = Console(markup=False, highlight=False)
        tracker = Tracker(settings.tracking, Path.cwd())
        earlier = read(tracker, settings.repeat)
        again = recorded(earlier.settings, "repeat")
        if again.search.space:
            raise SettingsError(
                f"repeat={settings.repeat}: that run is a search, whose trials share one study; its own command with "
                "search.study=ANOTHER_NAME does it again"
            )
        for difference in differences(earlier):
            console.print(f"note: {difference}", soft_wrap=True)
        more = {**tags, "repeats": earlier.run_id}
        outcome = task(again)(again, run_directory, command=earlier.command, tags=more)
        _tell(console, tracker, earlier, str(getattr(outcome, "run_id")))  # noqa: B009 - both kinds have one

    return perform


def _tell(console: Console, tracker: Tracker, earlier: Recorded, run_id: str) -> None:
    lines, same = compare(tracker, earlier, run_id)
    console.print()
    console.print("\n".join(lines), soft_wrap=True)
    answer = "every weight is the same, bit by bit" if same else "not all weights are the same"
    console.print(f"repeated: {answer}")
