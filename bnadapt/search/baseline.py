"""The baseline that all trials begin with: trained once, kept beside the study, known by the hash of its weights."""

from dataclasses import asdict
from pathlib import Path

from bnadapt.config import BASELINE, ModelSettings
from bnadapt.files import save
from bnadapt.models.load import load_file
from bnadapt.normalization.proof import weights_digest
from bnadapt.procedure import Listener, Procedure
from bnadapt.search.study import BASELINE_ACCURACY, BASELINE_DIGEST
from bnadapt.search.work import Work
from bnadapt.training.progress import Display


def make_baseline(work: Work) -> None:
    """Train the baseline that all trials share, unless an earlier process of this search has kept it."""
    study, path = work.study, work.baseline
    known = study.user_attrs.get(BASELINE_DIGEST)
    if known is not None:
        if _digest_of_file(path, work.settings.model) == known:
            work.say(f"baseline: as trained before, from {path}")
            return
        work.say(f"baseline: {path} no longer holds the network of this study; it is trained again")
    procedure = Procedure(work.settings, work.start, Display(work.console, work.settings.progress))
    with work.run.stage(BASELINE, order=0, parameters=asdict(work.start.baseline)) as stage:
        network, _ = procedure.train_baseline(work.start.network, Listener(epoch=stage.log_look))
        scores = procedure.scores(network, work.start.splits.validation)
        stage.log_scores(scores)
        save(network, path)
        digest = weights_digest(network)
        stage.log_text("baseline.sha256", digest)
    if known not in (None, digest):
        work.say(
            "  its weights differ from those that the trials so far began with: compare across with care"
        )
    study.set_user_attr(BASELINE_ACCURACY, scores.accuracy)
    study.set_user_attr(BASELINE_DIGEST, digest)  # last: what it names is whole
    work.say(
        f"baseline: {100 * scores.accuracy:.2f} % of {work.images:,} validation "
        f"image{'s' * (work.images != 1)}, shared by all trials"
    )


def _digest_of_file(path: Path, trusting: ModelSettings) -> str | None:
    """Hash of the weights in a network file; None where it cannot be read."""
    try:
        return weights_digest(load_file(path, trusting))
    except Exception:  # a file that is no network, cut off or from elsewhere raises what it likes
        return None
