"""Between two rounds on Flower an operator is heard as in any federation."""

import threading
import time

import pytest

from agent.rundir.events import RequestDone, RequestSeen, RoundCommitted, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.requests import write_request
from agent.session import Agent
from agent.start import begin_run
from tests.trainer.federated.bench import toy
from trainer.chunks.store import ChunkStore
from trainer.federated.flower_requests import FlowerRequests
from trainer.federated.global_model import GlobalModel
from trainer.federated.problem import server_data
from trainer.federated.server_events import ServerEvents


@pytest.fixture
def run(tmp_path):
    start = begin_run(tmp_path, kind="federated", config={})
    start.record()
    yield start
    start.release()


@pytest.fixture
def requests(run):
    config = toy()
    path = run.run.chunk_store("server")
    model = GlobalModel(path, run_id="r", config=config, data=server_data(config))
    agent = Agent.attach(
        run.run.path,
        kind="federated",
        rank=-1,
        attempt=run.attempt,
        node="server",
        heartbeat_s=0.05,
    )
    with agent:
        yield FlowerRequests(model, ServerEvents(agent), run.run)
    model.close()


def told(run, kind):
    data = RunDir(run.run.path).telemetry_file(run.attempt, "server").read_bytes()
    return [event for event in decode_lines(data) if isinstance(event, kind)]


def ask(run, kind, args=None):
    """Write a request, and wait until the agent has seen it."""
    num = len(told(run, RequestSeen))
    write_request(run.run, kind, args)
    while len(told(run, RequestSeen)) == num:
        time.sleep(0.01)


def test_without_a_request_the_next_round_begins(requests):
    assert requests.settle()


def test_a_stop_ends_the_run_before_the_next_round(run, requests):
    ask(run, "stop")

    assert not requests.settle()
    assert [e.error for e in told(run, RequestDone)] == [None]


def test_a_pause_holds_the_rounds_until_it_is_over(run, requests):
    ask(run, "pause")
    settled = threading.Event()
    thread = threading.Thread(target=lambda: requests.settle() and settled.set())
    thread.start()
    while not told(run, RequestDone):
        assert not settled.is_set()

    write_request(run.run, "continue")
    thread.join()

    assert settled.is_set()


def test_a_restore_becomes_a_round_and_one_that_fails_is_told(run, requests):
    first = requests.model.adopt(1, _other_store(run, requests.model), 7).packed.digest
    ask(run, "restore", {"node": "server", "round_num": 9})
    ask(run, "restore", {"node": "server", "round_num": 1})

    assert requests.settle()

    (committed,) = told(run, RoundCommitted)
    assert (committed.reason, committed.source) == ("restored", "server round 1")
    assert committed.model_digest == first
    assert requests.model.round_num == 2
    assert sorted(e.error is None for e in told(run, RequestDone)) == [False, True]


def _other_store(run, model):
    """A client's store with a round 7 in it."""
    path = run.run.chunk_store("client-1")
    with ChunkStore.open(path) as store:
        store.put_round(7, {name: t + 1 for name, t in model.tensors.items()})
    return path
