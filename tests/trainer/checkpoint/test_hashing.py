import random
from pathlib import Path

import blake3
import pytest

from trainer.checkpoint import hashing
from trainer.checkpoint.hashing import HashingFile


def pieces_of(num_pieces):
    """Return pieces around the size from which a second thread hashes."""
    chance = random.Random(3)
    sizes = (0, 1, 30, 1 << 16, (1 << 16) - 1, 300_000)
    return [chance.randbytes(chance.choice(sizes)) for _ in range(num_pieces)]


def test_pieces_of_any_size_are_hashed_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "_WRITEBACK_BYTES", 400_000)
    pieces = pieces_of(60)
    path = tmp_path / "state.pt"

    with path.open("wb") as file, HashingFile(file) as hashed:
        for piece in pieces:
            hashed.write(memoryview(piece))

    whole = b"".join(pieces)
    assert path.read_bytes() == whole
    assert hashed.num_bytes == len(whole)
    assert hashed.digest == f"blake3:{blake3.blake3(whole).hexdigest()}"


def test_a_piece_that_the_disk_refuses_is_let_go_with_the_error():
    piece = memoryview(random.Random(4).randbytes(30_000_000))
    with Path("/dev/full").open("wb", buffering=0) as full, HashingFile(full) as hashed:
        with pytest.raises(OSError, match="No space left") as raised:
            hashed.write(piece)

        piece.release()  # refused while another thread reads it
    assert hashed.error is raised.value
    assert hashed.num_bytes == 0
