"""One thing that the doctor looked at."""

from enum import Enum
from typing import NamedTuple


class Mark(Enum):
    """What a check means."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing to mend."""
    WARN = "warn"


class Check(NamedTuple):
    """One line of the doctor's."""

    mark: Mark
    what: str
    found: str
    advice: str = ""
    """What to do about it; empty: nothing."""
