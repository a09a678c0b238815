"""What can be wrong with the world, and what the reader can do about it.

Every error carries the exit code of the command that meets it and, where one
exists, a command that helps. They are caught once: at the command line or in
the app.
"""

EXIT_USAGE = 64
EXIT_RUN_DIR = 66
EXIT_INTERNAL = 70
EXIT_LOCKED = 73


class RunDirError(Exception):
    """The world is not as needed; `hint` is a command the reader can paste."""

    exit_code: int = EXIT_RUN_DIR

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NotARunError(RunDirError):
    """The directory does not exist or has no readable `run.json`."""


class NewerSchemaError(RunDirError):
    """The file was written by a newer version than this one reads."""


class UnwritableError(RunDirError):
    """The run directory cannot be made, or not be written."""


class UnreadableFileError(RunDirError):
    """A file of the run directory exists but is not what its name says."""


class LockedError(RunDirError):
    """Another trainer runs on this directory, or may do so."""

    exit_code = EXIT_LOCKED


class ConfigMismatchError(RunDirError):
    """An existing run was started with another configuration."""


class NoCheckpointError(RunDirError):
    """There is no checkpoint that can be resumed."""


class DamagedCheckpointError(RunDirError):
    """A checkpoint does not hold the bytes that its manifest promises."""
