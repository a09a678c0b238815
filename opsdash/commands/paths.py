"""`opsdash paths`: where this program keeps what is its own."""

import argparse
import os
from pathlib import Path

from opsdash.commands.console import say


def main(_arguments: argparse.Namespace) -> int:
    """Print each place, whether or not there is something yet."""
    for label, path in (
        ("config", config_file()),
        ("crashes", crash_dir()),
        ("program", Path(__file__).parent.parent),
    ):
        say(f"{label:<10}{path}")
    return 0


def config_file() -> Path:
    """Return the one configuration file.

    Source: XDG Base Directory Specification 0.8.
    """
    return _xdg("XDG_CONFIG_HOME", ".config") / "config.toml"


def crash_dir() -> Path:
    """Return where reports of our own faults go."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "crashes"


def _xdg(variable: str, otherwise: str) -> Path:
    given = os.environ.get(variable, "")
    # The specification: a relative path is invalid and has to be ignored.
    root = Path(given) if given.startswith("/") else Path.home() / otherwise
    return root / "opsdash"
