"""Which file system a path lies on, and whether it tells of changes."""

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_SILENT = (
    "nfs",
    "lustre",
    "fuse",
    "cifs",
    "smb",
    "9p",
    "beegfs",
    "gpfs",
    "ceph",
    "afs",
    "wekafs",
    "gfs2",
    "ocfs2",
    "virtiofs",
    "vboxsf",
)
"""Another host, or a virtual machine's, can change a file there without an event."""


def file_system_type(path: Path) -> str:
    """Return the kernel's name of the file system, e.g. `ext4`; empty: not known.

    Source: proc_pid_mountinfo(5): the mount point is field 5, the type is the
    first field after the one that is a single hyphen.
    """
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
        place = os.path.realpath(path)
    except OSError:
        return ""
    best, found = "", ""
    for line in lines:
        mounted, _, rest = line.partition(" - ")
        point = _unescaped(mounted.split()[4])
        if _is_below(place, point) and len(point) >= len(best):
            best, found = point, rest.split()[0]
    return found


def tells_of_changes(path: Path) -> bool:
    """Whether watching the path makes sense; unknown ones are watched."""
    return not file_system_type(path).startswith(_SILENT)


def _is_below(place: str, point: str) -> bool:
    return place == point or place.startswith(point.rstrip("/") + "/")


def _unescaped(point: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
        point = point.replace(code, character)
    return point
