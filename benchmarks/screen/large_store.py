"""A chunk store with very many small chunks, made by a program with torch in it.

The program that plays the terminal does without: its memory and its threads are
beside what is measured.
"""

import subprocess
import sys
from pathlib import Path

from agent.rundir.layout import RunDir
from benchmarks.screen.terminal import ROOT

NODE = "server"


def make_store(run: RunDir, num_chunks: int) -> None:
    """Make a store of one round in a run."""
    path = run.chunk_store(NODE)
    path.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "benchmarks.screen.large_store"]
    subprocess.run([*argv, str(path), str(num_chunks)], cwd=ROOT, check=True)


def main() -> None:
    import torch  # noqa: PLC0415 - see above

    from trainer.chunks.split import FlatSplit  # noqa: PLC0415 - loads torch
    from trainer.chunks.store import ChunkStore  # noqa: PLC0415 - loads torch

    path, num_chunks = Path(sys.argv[1]), int(sys.argv[2])
    with ChunkStore(path, node=NODE) as store:
        tensors = {"w": torch.arange(8.0 * num_chunks)}
        store.put_round(1, tensors, split=FlatSplit(num_chunks))


if __name__ == "__main__":
    main()
