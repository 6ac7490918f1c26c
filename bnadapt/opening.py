"""A run at the top level is opened: in MLflow and on disk, begun or gone on with."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console

from bnadapt.already_done import print_cut_off
from bnadapt.config import Settings
from bnadapt.data.reading import reading
from bnadapt.files import copy
from bnadapt.journal import Identity, Journal, Journals
from bnadapt.resuming import Earlier, command_to_go_on
from bnadapt.secrets import redacted, redacted_values
from bnadapt.tracking.runs import PipelineRun
from bnadapt.tracking.store import Tracker
from bnadapt.training.divergence import DivergedError


@contextmanager
def opened_run(
    known: Journals,
    earlier: Earlier,
    identity: Identity,
    settings: Settings,
    tracker: Tracker,
    console: Console,
    *,
    name: str,
    parameters: Mapping[str, str],
    tags: Mapping[str, str],
    run_directory: Path,
    command: Sequence[str],
) -> Iterator[tuple[PipelineRun, Journal]]:
    """The run at the top level and its journal, while the block lasts.

    Whatever ends the block early is told together with the command that goes on.

    Args:
        known: Journals of earlier runs.
        earlier: What earlier processes have done of this one.
        identity: What the run is.
        settings: Checked settings, kept with the run.
        tracker: MLflow's store.
        console: Is told which runs were cut off.
        name: Of the run, as its parameters and tags only where it begins here.
        parameters: What users vary.
        tags: Anything else that it is searched by.
        run_directory: Of this process; a run that is gone on with keeps the one that it began in.
        command: The words that the user typed.

    Raises:
        BnadaptError: the store does not take the run, or another process works on it.
    """
    with (
        tracker.pipeline(
            name,
            parameters=parameters,
            tags=tags,
            config_yaml=yaml.safe_dump(
                redacted_values(asdict(settings)), sort_keys=False, allow_unicode=True
            ),
            command=shlex.join(command),
            identity=identity.digest,
            resume=earlier.run_id,
        ) as run,
        _telling_how_to_go_on(known, run.run_id, settings),
        reading(),
    ):
        print_cut_off(console, known, settings, run.cut_off)
        if earlier.begun is not None:
            console.print(f"goes on with run {earlier.begun}, which had only begun", soft_wrap=True)
        yield run, _journal(known, earlier, run.run_id, identity, settings, run_directory, command)


def _journal(
    known: Journals,
    earlier: Earlier,
    run_id: str,
    identity: Identity,
    settings: Settings,
    run_directory: Path,
    command: Sequence[str],
) -> Journal:
    """The journal of the run: that of an earlier process, else a new one with the stages that can be taken over."""
    if earlier.journal is not None:
        return earlier.journal
    # The address of a database or server may hold a password.
    recorded = redacted_values(asdict(settings))
    journal = known.begin(
        run_id,
        identity,
        run_directory=run_directory,
        command=[redacted(word) for word in command],
        settings=recorded,
    )
    if earlier.reusable is not None:
        for name in earlier.reusable.names:
            entry = earlier.reusable.journal.ended[name]
            network = run_directory.absolute() / "models" / Path(entry["network"]).name
            copy(Path(entry["network"]), network)
            uri = entry["model_uri"] if earlier.reusable.recorded else None
            journal.end_stage(name, entry | {"network": str(network), "model_uri": uri})
    return journal


@contextmanager
def _telling_how_to_go_on(known: Journals, run_id: str, settings: Settings) -> Iterator[None]:
    """Add the command that goes on with a run, once it has a journal, to whatever ends the block early."""
    try:
        yield
    except DivergedError as reason:
        reason.add_note("with what is wrong mended, resume=true takes over the stages that had ended")
        raise
    except BaseException as reason:
        if known.has(run_id):
            reason.add_note(f"go on with it: {command_to_go_on(run_id, settings)}")
        raise
