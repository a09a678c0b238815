"""What panes ask of the app: they show and point, the app acts.

A pane never verifies, resumes or switches to another pane by itself.
"""

from collections.abc import Sequence

from textual.message import Message


class VerifyRequested(Message):
    """The operator wants checkpoints read again."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        """Directory names below `checkpoints/`."""


class ResumeRequested(Message):
    """The operator wants to see what a resume would do."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name
        """Directory name of the checkpoint; None: the newest verified one."""


class StepOpened(Message):
    """The operator wants the events of some steps of one rank."""

    def __init__(self, step: int, rank: int | None) -> None:
        super().__init__()
        self.step = step
        self.rank = rank


class CopyRequested(Message):
    """The operator wants a text in the clipboard."""

    def __init__(self, text: str, what: str) -> None:
        super().__init__()
        self.text = text
        self.what = what
        """What it is, for the answer: `digest`, `command` …"""
