"""Store rounds until killed; for tests that kill.

`python -m tests.trainer.chunks.endless_writer` reads one path per line and
forks a process for each: torch is loaded once, killing is what costs nothing.
A process prints its pid, then the number of each round that it was told is
durable.
"""

import os
import sys
from pathlib import Path

import torch

from trainer.chunks.split import TensorSplit
from trainer.chunks.store import ChunkStore

KEEP_ROUNDS = 3
NUM_ROWS = 60


def model_of(round_num: int) -> dict[str, torch.Tensor]:
    """What round `round_num` holds: half of it changes every round."""
    rows = torch.arange(NUM_ROWS * 4096, dtype=torch.float32).reshape(NUM_ROWS, 4096)
    return {"trained": rows * round_num, "frozen": rows}


def write_forever(path: Path) -> None:
    with ChunkStore.open(path) as store:
        round_num = max((row.round_num for row in store.rounds()), default=0)
        while True:
            round_num += 1
            store.put_round(
                round_num,
                model_of(round_num),
                keep_rounds=KEEP_ROUNDS,
                state={"acknowledged": str(round_num).encode()},
                split=TensorSplit(1 << 16),
            )
            os.write(1, b"%d\n" % round_num)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.write(1, b"%d\n" % os.getpid())
            write_forever(Path(line.rstrip("\n")))
        os.waitpid(child, 0)
        os.write(1, b"gone\n")


if __name__ == "__main__":
    main()
