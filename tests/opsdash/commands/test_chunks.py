"""`opsdash chunks`: stores, rounds, chunks, what changed, and mending them."""

import json
import sqlite3

import pytest
import torch

from agent.rundir.events import StoreStats
from tests.opsdash_command import opsdash
from tests.runs import RunWriter, dead_process
from trainer.chunks.store import ChunkStore


@pytest.fixture
def run(tmp_path):
    """A federation that has ended, with the same rounds on server and client."""
    writer = RunWriter(
        tmp_path / "fl", kind="federated", world_size=1, process=dead_process()
    )
    writer.begin()
    for node in ("server", "client-1"):
        path = writer.run.chunk_store(node)
        path.parent.mkdir(parents=True)
        with ChunkStore(path, node=node) as store:
            store.put_round(1, {"body": torch.zeros(8), "head": torch.ones(4)})
            store.put_round(2, {"body": torch.zeros(8), "head": torch.zeros(4)})
    return writer.run


def contents(run):
    """Every file but the two that SQLite keeps beside a store that is open."""
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    return {
        p: data for p, data in files.items() if not p.name.endswith(("-wal", "-shm"))
    }


def damage(run, node):
    """Turn one stored byte of every chunk that holds anything but zeros."""
    with sqlite3.connect(run.chunk_store(node)) as conn:
        conn.execute(
            "UPDATE chunk_data SET data = zeroblob(length(data)) "
            "WHERE data <> zeroblob(length(data))"
        )
    conn.close()


def test_the_rounds_of_a_store_are_listed(run):
    done = opsdash("chunks", run.path, "--node", "server", "--json")

    rounds = json.loads(done.stdout)["rounds"]
    assert [row["round_num"] for row in rounds] == [1, 2]
    assert [row["num_tensors"] for row in rounds] == [2, 2]
    assert rounds[1]["shared_bytes"] == 32


def stores_now(run):
    done = opsdash("chunks", run.path, "--json")
    assert done.returncode == 0, done.stderr
    return {store["node"]: store for store in json.loads(done.stdout)["stores"]}


def test_what_a_prune_left_is_shown_and_not_what_was_told_before(run):
    told = {"num_rounds": 2, "num_chunks": 3, "new_chunks": 1, "new_bytes": 16}
    writer = RunWriter(run.path, kind="federated", world_size=1)
    writer.emit(
        "server",
        StoreStats,
        **told,
        shared_bytes=32,
        file_bytes=10**6,
        put_ns=5,
        round_num=2,
    )
    path = run.chunk_store("server")
    with ChunkStore(path) as store:
        store.prune(1)

    stores = stores_now(run)

    server = stores["server"]
    assert (server["round_num"], server["num_rounds"], server["num_chunks"]) == (
        2,
        1,
        2,
    )
    assert server["file_bytes"] == path.stat().st_size
    assert (server["new_bytes"], server["put_ns"]) == (16, 5)
    # Nobody told of this one: it is there all the same.
    client = stores["client-1"]
    assert (client["num_rounds"], client["num_chunks"]) == (2, 3)
    assert client["new_bytes"] is None


def test_a_store_that_cannot_be_looked_into_says_why(run):
    run.chunk_store("client-1").write_bytes(b"garbage" * 99)

    client = stores_now(run)["client-1"]
    text = opsdash("chunks", run.path).stdout

    assert client["num_rounds"] is None
    assert "is not a SQLite database" in client["why_unread"]
    assert "cannot be read now" in text
    assert "is not a SQLite database" in " ".join(text.split())


def test_the_chunks_of_a_round_are_listed_with_what_they_hold(run):
    done = opsdash("chunks", run.path, "--node", "server", "--round", "2")

    assert done.returncode == 0, done.stderr
    assert "body[0:8]" in done.stdout
    assert "head[0:4]" in done.stdout


def test_two_rounds_are_compared(run):
    words = ("--node", "server", "--round", "1", "--diff", "2")

    done = opsdash("chunks", run.path, *words, "--json")
    text = opsdash("chunks", run.path, *words)

    report = json.loads(done.stdout)
    assert [(one["name"], one["state"]) for one in report["tensors"]] == [
        ("head", "changed"),
        ("body", "same"),
    ]
    assert "1 of 2 chunks and 1 of 2 tensors differ" in text.stdout


def test_looking_changes_nothing(run):
    before = contents(run)

    for words in ([], ["--round", "1"], ["--round", "1", "--diff", "2"], ["--verify"]):
        assert opsdash("chunks", run.path, "--node", "server", *words).returncode == 0

    assert contents(run) == before


def test_a_damaged_chunk_is_found_and_mended_from_another_node(run):
    damage(run, "server")

    found = opsdash("chunks", run.path, "--verify")
    mended = opsdash("chunks", run.path, "--node", "server", "--repair")
    again = opsdash("chunks", run.path, "--verify")

    assert found.returncode == 2
    assert "chunks/server" in found.stdout
    assert mended.returncode == 0, mended.stderr
    assert "repaired 1 chunks" in mended.stdout
    assert again.returncode == 0


def test_a_chunk_that_nobody_has_whole_any_more_is_named(run):
    for node in ("server", "client-1"):
        damage(run, node)

    done = opsdash("chunks", run.path, "--node", "server", "--repair")

    assert done.returncode == 2
    assert "1 chunks of `chunks/server` are in no other store" in done.stderr


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--repair"], "name it with `--node`", 64),
        (["--round", "1"], "name it with `--node`", 64),
        (["--diff", "2"], "name it with `--node`", 64),
        (["--node", "server", "--diff", "1"], "name the older one", 64),
        (["--node", "server", "--follow"], "only the list of all stores", 64),
        (["--verify", "--idle-timeout", "1"], "only the list of all stores", 64),
        (["--node", "server", "--dry-run"], "are about `--repair`", 64),
        (["--node", "nobody"], "no chunk store of", 66),
        (["--node", "server", "--round", "9"], "does not hold round 9", 66),
    ],
)
def test_what_is_not_there_is_said_with_a_hint(run, words, message, code):
    done = opsdash("chunks", run.path, *words)

    assert done.returncode == code
    assert message in done.stderr


def test_a_store_whose_run_goes_on_is_left_alone(tmp_path):
    writer = RunWriter(tmp_path / "fl", kind="federated", world_size=1)
    writer.begin()
    path = writer.run.chunk_store("server")
    path.parent.mkdir(parents=True)
    with ChunkStore(path, node="server") as store:
        store.put_round(1, {"w": torch.ones(2)})

    done = opsdash("chunks", writer.path, "--node", "server", "--repair")

    assert done.returncode == 73
    assert "is running and owns the stores" in done.stderr
    assert f"opsdash request {writer.path} repair --node server" in done.stderr


def test_a_data_parallel_run_has_none(tmp_path):
    writer = RunWriter(tmp_path / "ddp", process=dead_process())
    writer.begin()

    done = opsdash("chunks", writer.path, "--verify")

    assert done.returncode == 66
    assert "its state is in checkpoints" in done.stderr
