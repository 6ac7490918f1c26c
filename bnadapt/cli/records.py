"""What Hydra writes down of a command, without the secrets in it."""

from pathlib import Path

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from bnadapt.files import write_text
from bnadapt.secrets import redacted_values


def hide_secrets_in_records() -> None:
    """Redact the files of settings that Hydra has just written for the job at hand, and for its sweep."""
    settings = HydraConfig.get()
    files: list[Path] = []
    if settings.output_subdir is not None:
        files += sorted((Path(settings.runtime.output_dir) / settings.output_subdir).glob("*.yaml"))
    if settings.mode is RunMode.MULTIRUN:
        files.append(Path(settings.sweep.dir) / "multirun.yaml")
    for file in files:
        if file.is_file():
            _redact(file)


def _redact(file: Path) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    hidden = redacted_values(content)
    if hidden != content:
        write_text(file, yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True))
