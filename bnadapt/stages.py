"""What a stage needs of the stages before it, and the command that makes it; standard library only."""

import shlex
from collections.abc import Collection, Sequence

from bnadapt.config import BASELINE, EVALUATE, INSERT, Settings, chosen_stages, inserts, stage_order
from bnadapt.errors import StageError


def needed_before(settings: Settings) -> str | None:
    """The stage of an earlier run that the first chosen stage goes on from; None where it needs none.

    ``evaluate`` needs the baseline to compare with; every other stage the one directly before it.
    """
    order, first = stage_order(settings), chosen_stages(settings)[0]
    if first == BASELINE:
        return None
    needed = BASELINE if first == EVALUATE else order[order.index(first) - 1]
    return BASELINE if needed == INSERT and not inserts(settings.placement) else needed


def require_stages(settings: Settings, available: Collection[str], command: Sequence[str]) -> None:
    """Raise a StageError that names the command that makes it, where a chosen stage needs what is not there.

    Args:
        settings: Checked settings.
        available: Stages of earlier runs.
        command: The words that the user typed.
    """
    needed = needed_before(settings)
    if needed is None or needed in available:
        return
    stages, order = chosen_stages(settings), stage_order(settings)
    before = order[: order.index(needed) + 1]
    have = [name for name in before if name in available]
    missing = before[before.index(have[-1]) + 1 :] if have else before
    has = f"run {settings.from_run} has {', '.join(available) or 'no finished stage'}"
    where = has if settings.from_run else "no earlier run is named (from_run=RUN_ID)"
    run_id = settings.from_run if have else None
    raise StageError(
        f"stage {stages[0]} needs stage {needed}, and {where}. "
        f"This makes it: {with_stages(command, [*missing, *stages], run_id)}"
    )


def with_stages(command: Sequence[str], stages: Sequence[str], from_run: str | None) -> str:
    """The command as typed, with other stages and another run to go on from, ready for a shell."""
    words = [word for word in command if not word.startswith(("stages=", "from_run="))]
    words += [f"stages=[{','.join(stages)}]", *([f"from_run={from_run}"] if from_run else [])]
    return shlex.join(words)
