"""The command line; only this package knows Hydra."""

from bnadapt.cli.composition import configuration_directory, settings_from
from bnadapt.cli.program import main

__all__ = ["configuration_directory", "main", "settings_from"]
