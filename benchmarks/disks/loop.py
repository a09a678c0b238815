"""An ext4 of its own on a loop device, whose power can be cut.

Only root may. Everything is in one image file; what the file system has not yet
sent to the device when the power is cut is gone, as the next mount will find.
"""

import contextlib
import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
IMAGE_BYTES = 320 << 20


def cut_power(disk: Path) -> None:
    fd = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
    finally:
        os.close(fd)


def new_image(folder: Path) -> Path:
    image = folder / "disk.img"
    image.unlink(missing_ok=True)  # another file, whoever still has that one
    with image.open("xb") as file:
        file.truncate(IMAGE_BYTES)
    system("mkfs.ext4", "-q", "-F", str(image))
    return image


@contextlib.contextmanager
def mounted(image: Path, point: Path) -> Iterator[None]:
    point.mkdir(exist_ok=True)
    wait_until_free(image)
    system("mount", "-o", "loop", str(image), str(point))
    try:
        yield
    finally:
        unmount(point)


def wait_until_free(image: Path) -> None:
    """Wait for whoever still has a copy of an earlier mount.

    A process that was given its own view of all mounts keeps the disk that was
    cut alive for a moment; mounting would find that one, not the journal.
    """
    for _ in range(300):
        command = ["losetup", "-j", str(image)]
        if not subprocess.run(command, check=True, capture_output=True).stdout:
            return
        time.sleep(0.1)
    raise RuntimeError(f"`{image}` stays in use")


def unmount(point: Path) -> None:
    """Let go; what was killed may hold the disk for a moment longer."""
    for _ in range(100):
        done = subprocess.run(["umount", str(point)], check=False, capture_output=True)
        if done.returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError(f"`{point}` stays mounted: {done.stderr.decode()}")


def system(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
