"""`opsdash request` and `opsdash restore`, as an operator runs them."""

import contextlib
import json
import threading

import pytest
import torch

from agent.rundir.request_args import KINDS
from agent.rundir.requests import ACCEPTS_NAME, list_requests
from tests.opsdash_command import opsdash
from tests.run_states import STATES
from tests.runs import RunWriter, dead_process
from trainer.chunks.store import ChunkStore


@pytest.fixture
def live(tmp_path):
    run = RunWriter(tmp_path / "run-1")
    run.begin()
    run.beat()
    run.steps(1, 5)
    run.run.requests.mkdir(mode=0o700)
    told = {"schema": 1, "attempt": 1, "kinds": sorted(KINDS)}
    path = run.run.requests / ACCEPTS_NAME
    path.write_text(json.dumps(told))
    path.chmod(0o600)
    return run


@contextlib.contextmanager
def answering(run, stage, error):
    """Be the trainer: take the first request that is made, and tell an outcome."""

    def work():
        while not (views := list_requests(run.run)) and not over.wait(0.02):
            pass
        for view in views:
            answer(run.run, view.request, stage, error)

    over = threading.Event()
    trainer = threading.Thread(target=work)
    trainer.start()
    yield
    over.set()
    trainer.join()


def answer(run, request, stage, error):
    """What the trainer leaves when it is done with a request."""
    (run.requests / f"{request.id}.json").unlink()
    done = run.requests / "done"
    done.mkdir()
    outcome = {"schema": 1, "id": request.id, "kind": request.kind, "stage": stage}
    part = run.requests / "outcome"
    part.write_text(json.dumps({**outcome, "finished_ns": 1, "error": error}))
    part.chmod(0o600)
    part.rename(done / f"{request.id}.json")


def test_a_request_is_planned_and_made(live):
    done = opsdash("request", live.path, "profile", "--steps", "3", "--no-wait")

    assert done.returncode == 0, done.stderr
    assert "plan      profile the next 3 steps" in done.stdout
    assert f"runs      opsdash request {live.path} profile --steps 3" in done.stdout
    (view,) = list_requests(live.run)
    assert (view.request.kind, view.request.args) == ("profile", {"steps": 3})


def test_a_dry_run_asks_nothing(live):
    done = opsdash("request", live.path, "pause", "--dry-run")

    assert done.returncode == 0
    assert list_requests(live.run) == []


def test_what_cannot_be_undone_needs_a_yes(live):
    refused = opsdash("request", live.path, "stop", "--no-wait")
    made = opsdash("request", live.path, "stop", "--no-wait", "--yes")

    assert refused.returncode == 64
    assert "hint: --yes confirms it" in refused.stderr
    assert made.returncode == 0
    assert [view.request.kind for view in list_requests(live.run)] == ["stop"]


def test_nobody_to_ask_is_told_after_the_plan(tmp_path):
    run = RunWriter(tmp_path / "run", process=dead_process())
    run.begin()

    done = opsdash("request", run.path, "pause")

    assert done.returncode == 66
    assert "pause the run" in done.stdout
    assert "there is nobody to ask" in done.stderr


def test_an_unknown_kind_names_those_that_there_are(live):
    done = opsdash("request", live.path, "explode")

    assert done.returncode == 66
    assert "checkpoint-now" in done.stderr


def test_a_failure_is_told_with_its_reason(live):
    with answering(live, "failed", "no space left"):
        done = opsdash("request", live.path, "checkpoint-now")

    assert done.returncode == 66
    assert "`checkpoint-now` failed: no space left" in done.stderr


def test_an_outcome_is_waited_for(live):
    with answering(live, "done", None):
        done = opsdash("request", live.path, "pause")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "done"


def test_a_round_replaces_a_file_only_with_a_yes_also_of_an_open_store(tmp_path):
    run = STATES["federated"](tmp_path / "fl")
    to = tmp_path / "out.pt"
    to.write_bytes(b"precious")
    where = ("--node", "client-1", "--round", "7", "--to", to, "--tensors", "head.*")

    with ChunkStore(run.run.chunk_store("client-1"), node="client-1"):
        refused = opsdash("restore", run.path, *where)
        kept = to.read_bytes()
        done = opsdash("restore", run.path, *where, "--yes")

    assert refused.returncode == 64
    assert kept == b"precious"
    assert done.returncode == 0, done.stderr
    assert f"wrote {to}" in done.stdout
    assert sorted(torch.load(to)) == ["head.bias", "head.weight"]


def test_tensors_get_other_names_in_a_file_and_in_a_request(tmp_path):
    run = STATES["federated"](tmp_path / "fl")
    to = tmp_path / "out.pt"
    renamed = ("--tensors", "head.*", "--map", "head.bias=b", "--map", "head.weight=w")
    where = ("--node", "client-1", "--round", "7", *renamed)

    written = opsdash("restore", run.path, *where, "--to", to)
    asked = opsdash("restore", run.path, *where, "--live", "--dry-run")

    assert written.returncode == 0, written.stderr
    assert sorted(torch.load(to)) == ["b", "w"]
    assert "--map head.bias=b --map head.weight=w" in "".join(asked.stdout.split("\n"))


def test_a_damaged_round_writes_nothing_and_says_which_chunk(tmp_path):
    run = STATES["federated"](tmp_path / "fl")
    to = tmp_path / "out.pt"

    arguments = ("restore", run.path, "--node", "client-3", "--round", "7")
    done = opsdash(*arguments, "--to", to)

    assert done.returncode == 66
    assert "chunk 0 of round 7 at `client-3`" in done.stderr
    assert not to.exists()


def test_a_data_parallel_run_is_told_to_resume(live, tmp_path):
    done = opsdash(
        *("restore", live.path, "--node", "server", "--round", "1", "--to", "x.pt")
    )

    assert done.returncode == 66
    assert f"hint: opsdash resume {live.path}" in done.stderr
