"""Which files one process's telemetry has."""

from pathlib import Path

from agent.rundir.layout import parse_telemetry_name


def list_segments(folder: Path, stem: str) -> list[int]:
    """Return the numbers of a process's segments on disk, in order.

    Raises:
        OSError: the folder cannot be read.
    """
    try:
        names = [parse_telemetry_name(path.name) for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(n.segment for n in names if n is not None and n.stem == stem)
