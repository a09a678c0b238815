"""Runs in every state that the dashboard tells apart, the same each time.

They are written by hand: what a trainer leaves in such a state is tested end
to end elsewhere. Times, hosts and process ids are made up and fixed.
"""

import shutil
from pathlib import Path

import msgspec
import torch

from agent.rundir import events as ev
from agent.rundir.checkpoints import Verification, encode_verification
from agent.rundir.layout import MANIFEST_NAME, checkpoint_name
from agent.rundir.manifest import manifest_digest
from agent.rundir.process import ProcessId, this_process
from agent.rundir.stacks import StacksHeader, encode_header, stacks_file
from tests.runs import SECOND, START_NS, RunWriter

_NODE = ProcessId(
    host="node-a",
    boot_id="11111111-2222-3333-4444-555555555555",
    pid_namespace="pid:[4026531836]",
    pid=4242,
    pid_start=4242,
)
_ROOM = 2 << 30
_STACK = """Thread 0x00007f0000000001 (most recent call first):
  File "/srv/train/data.py", line 88 in read_shard
  File "/srv/train/data.py", line 41 in __next__
  File "/srv/train/loop.py", line 120 in step
  File "/srv/train/loop.py", line 64 in run
"""


def live(path: Path) -> RunWriter:
    """Training on, one rank late, an older attempt, a pinned checkpoint."""
    run = _writer(path, world_size=4)
    run.begin()
    _train(run, 1, 40, save=(20,))
    _goodbye(run, "stopped")
    run.wait(30)
    run.begin()
    for rank in range(4):
        run.emit(
            rank,
            ev.CheckpointLoaded,
            checkpoint="step-00000020",
            digest="blake3:00",
            load_ns=80_000_000,
            resumed_step=20,
            step=20,
        )
    _train(run, 21, 120, late={2: 12_000_000}, save=(60, 100))
    _pin(run, 60)
    run.beat()
    return run


def dead(path: Path) -> RunWriter:
    """Killed in the middle of a step, half a minute ago."""
    gone = msgspec.structs.replace(this_process(), pid_start=1)
    run = _writer(path, process=gone)
    run.begin(started=False)
    _train(run, 1, 70, save=(50,))
    run.beat()
    return run


def hung(path: Path) -> RunWriter:
    """Three of four ranks wait at a barrier whose limit has passed."""
    run = _writer(path, world_size=4)
    run.begin()
    _train(run, 1, 30, save=(20,))
    run.beat()
    for rank in (0, 1, 3):
        run.emit(
            rank, ev.BarrierArrived, name="checkpoint.save", index=1, limit_ns=SECOND
        )
    for _ in range(12):
        run.wait(1)
        waiting = {"waiting_at": "checkpoint.save", "waiting_index": 1}
        for rank in (0, 1, 3):
            waited = {"waiting_age_ns": 12 * SECOND, "progress": 30, "step": 30}
            run.beat(rank, phase="saving", **waiting, **waited)
        run.beat(2, progress=30, step=30)
    _write_stacks(run, 2)
    run.emit(
        0,
        ev.HangNamed,
        barrier="checkpoint.save",
        missing=(2,),
        waited_ns=12 * SECOND,
        step=30,
    )
    run.emit(2, ev.StacksWritten, file="stacks/0001/rank-00002.txt", reason="a hang")
    return run


def damaged(path: Path) -> RunWriter:
    """A checkpoint that was cut, one set aside, one half written, lines torn."""
    run = _writer(path)
    run.begin()
    _train(run, 1, 60, save=(20, 40, 60))
    cut = run.run.checkpoints / "step-00000060" / "state.pt"
    cut.write_bytes(cut.read_bytes()[:-100])
    aside = run.run.checkpoints / "step-00000040"
    shutil.copytree(aside, aside.with_name(".quarantine-step-00000040"))
    half = run.run.checkpoints / ".partial-step-00000061"
    shutil.copytree(aside, half)
    (half / MANIFEST_NAME).unlink()
    run.emit(0, ev.NonfiniteFound, tensor="head.weight", where="gradient", step=58)
    run.append("rank-00001", b'{"kind":"step_done","time_ns":17\n\x1b[2Jboo\n')
    run.append("rank-00001", b'{"kind":"teleported","time_ns":1,"mono_ns":1}\n')
    run.beat()
    return run


def empty(path: Path) -> RunWriter:
    """Just begun: nobody has said anything."""
    run = _writer(path)
    run.begin(started=False)
    return run


def federated(path: Path) -> RunWriter:
    """A server and three clients: one was away, one update came late."""
    run = _writer(path, kind="federated", world_size=3)
    run.begin()
    clients = ("client-1", "client-2", "client-3")
    for client in clients:
        run.emit("server", ev.ClientJoined, client=client, session="s1")
    for number in range(1, 9):
        _round(run, number, clients)
    _make_stores(run)
    run.beat("server", phase="training", round_num=9)
    run.beat(*clients, phase="training", round_num=9)
    return run


STATES = {
    "live": live,
    "dead": dead,
    "hung": hung,
    "damaged": damaged,
    "empty": empty,
    "federated": federated,
}


def _writer(path: Path, **fields) -> RunWriter:
    run = RunWriter(path, **{"process": _NODE, **fields})
    run.time_ns = START_NS
    return run


def _train(run: RunWriter, first: int, last: int, *, late=None, save=()) -> None:
    """Steps with norms of two groups, evaluations, and saves that take their time."""
    for step in range(first, last + 1):
        loss = 4.0 / (1 + step / 20)
        run.steps(step, step, late=late, loss=loss, agent_ns=70_000)
        if step % 10 == 0:
            _sample(run, step)
        if step % 20 == 0:
            run.emit(0, ev.EvalDone, loss=4.2 / (1 + step / 20), step=step)
        if step in save:
            _save(run, step)
    for rank in range(run.world_size):
        run.emit(
            rank,
            ev.HostStats,
            rss_bytes=(900 + rank) << 20,
            cpu_frac=0.97,
            num_threads=9,
            num_fds=40,
            host_cpu_frac=0.5,
            mem_free_bytes=16 << 30,
            disk_free_bytes=_ROOM,
            agent_ns=last * 70_000,
            agent_bytes=last * 240,
        )


def _sample(run: RunWriter, step: int) -> None:
    groups = tuple(
        ev.GroupNorms(
            lr=rate, grad=0.3, param=7.0, state={"exp_avg": 0.1, "exp_avg_sq": 0.01}
        )
        for rate in (1e-3, 1e-4)
    )
    run.emit(
        0,
        ev.OptimizerNorms,
        optimizer="AdamW",
        step=step,
        grad=0.5 + 1 / step,
        param=10.0,
        update_ratio=0.01,
        state={"exp_avg": 0.25, "exp_avg_sq": 0.0625},
        groups=groups,
        state_steps=(step, step),
        probe_ns=210_000,
    )


def _save(run: RunWriter, step: int) -> None:
    name = checkpoint_name(step)
    run.emit(0, ev.CheckpointSaving, checkpoint=name, reason="interval", step=step)
    run.wait(0.2)
    path = run.checkpoint(step)
    digest = _digest_of(path)
    run.emit(
        0,
        ev.CheckpointPublished,
        checkpoint=name,
        digest=digest,
        size_bytes=4_096,
        write_ns=120_000_000,
        fsync_ns=45_000_000,
        publish_ns=9_000_000,
        step=step,
    )
    run.emit(
        0,
        ev.CheckpointVerified,
        checkpoint=name,
        digest=digest,
        state="sound",
        level="content",
        verify_ns=30_000_000,
        by="save",
        step=step,
    )
    run.run.latest.write_text(f"{name}\n")


def _goodbye(run: RunWriter, reason: str) -> None:
    for stem in run.stems():
        run.emit(stem, ev.RunEnded, reason=reason)
    run.unlock()


def _pin(run: RunWriter, step: int) -> None:
    line = Verification(
        checkpoint=checkpoint_name(step),
        digest=_digest_of(run.run.checkpoints / checkpoint_name(step)),
        time_ns=run.time_ns,
        state="pinned",
        level="",
        by="ada@node-a",
        pinned=True,
    )
    with run.run.verified.open("ab") as file:
        file.write(encode_verification(line))


def _digest_of(path: Path) -> str:
    return manifest_digest((path / MANIFEST_NAME).read_bytes())


def _write_stacks(run: RunWriter, rank: int) -> None:
    path = stacks_file(run.run, 1, f"rank-{rank:05d}")
    path.parent.mkdir(parents=True)
    header = StacksHeader(node=f"rank-{rank}", rank=rank, process=_NODE, signum=12)
    stamp = "\n2026-09-21T14:13:32Z a hang at checkpoint.save\n"
    path.write_bytes(encode_header(header) + stamp.encode() + _STACK.encode())


def _round(run: RunWriter, number: int, clients: tuple[str, ...]) -> None:
    """Rounds 4 and 5 pass without client-2, whose update of 4 comes late."""
    run.wait(2)
    away = number in (4, 5)
    asked = tuple(c for c in clients if not (number == 5 and c == "client-2"))
    there = tuple(c for c in asked if not (away and c == "client-2"))
    where = {"round_num": number}
    run.emit("server", ev.RoundStarted, clients=asked, model_digest="d", **where)
    if number == 6:
        run.emit(
            "server", ev.ClientJoined, client="client-2", session="s2", is_return=True
        )
        run.emit(
            "client-2",
            ev.OptimizerReset,
            optimizer="SGD",
            reason="missed 2 rounds",
            rounds_missed=2,
            before={"momentum_buffer": 3.5},
            after={},
            **where,
        )
    for index, client in enumerate(there):
        run.emit(
            "server",
            ev.ClientUpdate,
            client=client,
            num_examples=400 + 10 * index,
            loss=1.5 / number,
            queue_ns=20_000_000,
            compute_ns=300_000_000 + 100_000_000 * index,
            transfer_ns=15_000_000,
            cosine=0.9,
            **where,
        )
    if number == 4:
        late = "the round ended before it came"
        run.emit("server", ev.UpdateRefused, client="client-2", reason=late, **where)
        run.emit(
            "server", ev.ClientLost, client="client-2", session="s1", reason="gone"
        )
    run.emit(
        "server",
        ev.RoundCommitted,
        members=there,
        num_selected=len(asked),
        reason="deadline" if number == 4 else "complete",
        model_digest="d",
        round_ns=480_000_000,
        loss=1.4 / number,
        accuracy_frac=1 - 0.5 / number,
        **where,
    )


def _make_stores(run: RunWriter) -> None:
    """Two real rounds per node; a chunk of client-3's older round is missing."""
    from trainer.chunks.store import ChunkStore  # noqa: PLC0415 - torch, for this state only

    for node in run.stems():
        path = run.run.chunk_store(node)
        path.parent.mkdir(parents=True)
        with ChunkStore(path, node=node) as store:
            for number in (7, 8):
                weights = {
                    "conv.weight": torch.full((8, 4), float(number)),
                    "head.weight": torch.ones(10, 8),
                    "head.bias": torch.zeros(10),
                }
                store.put_round(number, weights, members=("client-1", "client-2"))
        _settle(path, run.time_ns, is_damaged=node == "client-3")
        run.emit(
            node,
            ev.StoreStats,
            num_rounds=2,
            num_chunks=6,
            new_chunks=1,
            new_bytes=128,
            shared_bytes=360,
            file_bytes=131_072,
            put_ns=9_000_000,
            round_num=8,
        )


def _settle(path: Path, time_ns: int, *, is_damaged: bool) -> None:
    """Give the rounds a fixed time; take a chunk out where it is asked for."""
    import sqlite3  # noqa: PLC0415 - for this state only

    with sqlite3.connect(path) as store:
        store.execute("UPDATE rounds SET created_ns = ?", (time_ns - 60 * SECOND,))
        if is_damaged:
            store.execute(
                """DELETE FROM chunk_data WHERE chunk_hash IN (SELECT chunk_hash
                   FROM chunk_metadata WHERE round_num = 7 AND chunk_id = 0)"""
            )
    store.close()
