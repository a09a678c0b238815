"""The source text of the Python standard library, as bytes to train on.

Real text that lies on every machine that runs this. Files are picked and split
by a hash of their names, so that a cap on the size takes a fair sample and the
held-out files stay the same. Another Python has other text: the digest tells.
"""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import blake3
import torch
from torch import Tensor
from torch.utils.data import Dataset

_LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
}


@dataclass(frozen=True)
class Corpus:
    """Text to train on and text that is held out."""

    train: Tensor
    """(num_bytes,) uint8."""
    val: Tensor
    """(num_val_bytes,) uint8, from other files."""
    num_files: int
    digest: str
    """Of both, with their border."""


def read_corpus(
    max_bytes: int, val_frac: float, *, folder: Path | None = None
) -> Corpus:
    """Read the text, the same bytes in the same order every time.

    Args:
        max_bytes: Stop after this many bytes; a file may be cut.
        val_frac: Share of the files that is held out.
        folder: None: this Python's standard library.
    """
    train, val = bytearray(), bytearray()
    num_files = 0
    for position, path in _files(folder or Path(sysconfig.get_path("stdlib"))):
        room = max_bytes - len(train) - len(val)
        if room <= 0:
            break
        (val if position < val_frac else train).extend(path.read_bytes()[:room])
        num_files += 1
    # A run needs a little of both, however small the cap.
    if not train or not val:
        text = train + val
        cut = max(1, int(len(text) * val_frac))
        train, val = text[:-cut], text[-cut:]
    digest = blake3.blake3(bytes(train)).update(b"\0\0").update(bytes(val))
    return Corpus(_as_tensor(train), _as_tensor(val), num_files, digest.hexdigest())


def _files(folder: Path) -> Iterator[tuple[float, Path]]:
    """Yield every source file with its place in [0, 1), in a shuffled order."""
    found = []
    for path in folder.rglob("*.py"):
        name = path.relative_to(folder)
        if _LEFT_OUT.isdisjoint(name.parts) and path.is_file():
            key = blake3.blake3(name.as_posix().encode()).digest()
            found.append((key, path))
    for key, path in sorted(found):
        # Other bytes of the hash than those that order the files lead.
        yield int.from_bytes(key[-8:], "big") / 2**64, path


def _as_tensor(data: bytearray) -> Tensor:
    if not data:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(data, dtype=torch.uint8).clone()


class ByteWindows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of bytes side by side; a sample predicts each byte's successor."""

    def __init__(self, text: Tensor, block: int) -> None:
        """Cut `text`, (num_bytes,) uint8, into windows of `block` bytes."""
        self.text = text
        self.block = block

    def __len__(self) -> int:
        """Return the number of whole windows."""
        return max(0, (len(self.text) - 1) // self.block)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each (block,) int64."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.block
        window = self.text[start : start + self.block + 1].long()
        return window[:-1], window[1:]
