"""Rounds on Flower: who is asked and told, who is not waited for, what is refused."""

import importlib.metadata
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from agent.rundir.attempts import read_attempt
from agent.rundir.errors import LockedError, RunDirError
from agent.rundir.events import (
    ChunkRepaired,
    ClientJoined,
    ClientLost,
    ClientRefused,
    OptimizerReset,
    RequestDone,
    RequestSeen,
    RoundAbandoned,
    RoundCommitted,
    RoundStarted,
    UpdateRefused,
)
from agent.rundir.layout import RunDir
from agent.rundir.requests import write_request
from tests import replaced
from tests.trainer.chunks.store_faults import flip_bit
from tests.trainer.federated.bench import toy
from tests.trainer.federated.federation import events, of_kind
from tests.trainer.federated.grid import RECORDS, Grid, Node, Served
from trainer.chunks.store import ChunkStore
from trainer.federated import flower
from trainer.federated.config import client_keys
from trainer.federated.problem import server_data
from trainer.federated.replay import replay
from trainer.federated.requests import adoption
from trainer.settings import UsageError

pytestmark = pytest.mark.timeout(120)

KEYS = ("client-1", "client-2", "client-3")


@pytest.fixture(autouse=True)
def records(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr.app", RECORDS)


def quick(**changes):
    values = {"rounds": 3, "gather_s": 20.0, "return_grace_s": 0.05, "lr": 0.01}
    return toy(**(values | changes))


def serve(run_dir, config, on_look=None, keys=KEYS):
    """Run a federation on a grid of nodes; return how it ended, and the grid."""
    grid = Grid(run_dir, keys)
    if on_look is not None:
        grid.on_look = lambda: on_look(grid)
    return Served(run_dir, config, grid).run(), grid


def told(run_dir, kind, node="server", attempt=1):
    return of_kind(events(run_dir, node, attempt), kind)


def node_of(grid, key):
    return next(node for node in grid.nodes.values() if node.key == key)


def test_clients_are_told_by_their_keys_from_the_first_round_on(tmp_path):
    reason, grid = serve(tmp_path, quick())

    joined = told(tmp_path, ClientJoined)
    rounds = told(tmp_path, RoundCommitted)
    assert reason == "completed"
    assert [(e.client, e.is_return) for e in joined] == [(key, False) for key in KEYS]
    assert [e.clients for e in told(tmp_path, RoundStarted)] == [KEYS] * 3
    assert [(r.members, r.reason) for r in rounds] == [(KEYS, "complete")] * 3
    assert told(tmp_path, UpdateRefused) == []
    assert told(tmp_path, ClientLost) == []
    for key in KEYS:
        assert told(tmp_path, OptimizerReset, key) == []
        assert node_of(grid, key).asked == ["query", *["train"] * 3]
    config = quick()
    path = RunDir(tmp_path).chunk_store("server")
    replayed = list(replay(path, config, server_data(config).shape))
    assert [one.differing for one in replayed] == [()] * 3


def test_part_of_the_clients_takes_part_in_each_round(tmp_path):
    config = quick(rounds=8, client_frac=0.5, min_clients=1)

    serve(tmp_path, config)

    asked = [e.clients for e in told(tmp_path, RoundStarted)]
    rounds = told(tmp_path, RoundCommitted)
    resets = [e for key in KEYS for e in told(tmp_path, OptimizerReset, key)]
    assert {len(clients) for clients in asked} == {2}
    assert len(set(asked)) > 1
    assert [r.members for r in rounds] == asked
    assert all(e.reason.startswith("reconnected after missing") for e in resets)
    assert resets


def test_rounds_wait_for_the_least_number_of_clients(tmp_path):
    num_looks = 0

    def look(grid):
        nonlocal num_looks
        num_looks += 1
        if num_looks == 10:
            assert told(tmp_path, RoundStarted) == []
            grid.nodes[7] = Node("client-2")

    config = quick(min_clients=2, gather_s=0.0)
    reason, _ = serve(tmp_path, config, look, keys=["client-1"])

    assert reason == "completed"
    assert [e.clients for e in told(tmp_path, RoundStarted)] == [KEYS[:2]] * 3


def test_too_few_clients_are_waited_for_with_patience(tmp_path):
    with pytest.raises(RunDirError, match="1 of at least 2 clients for"):
        serve(tmp_path, quick(min_clients=2, patience_s=0.2), keys=["client-1"])


def test_a_node_that_goes_is_told_and_not_waited_for_and_comes_back_clean(tmp_path):
    def look(grid):
        num_done = len(told(tmp_path, RoundCommitted))
        if num_done == 1:
            grid.nodes.pop(100, None)
        elif num_done == 2:
            grid.nodes.setdefault(200, Node("client-1"))
            # Nothing goes on without it: it has to have joined.
            grid.nodes[101].is_silent = len(told(tmp_path, ClientJoined)) < 4

    reason, _ = serve(tmp_path, quick(rounds=5, local_steps=3), look)

    (lost,) = told(tmp_path, ClientLost)
    back = told(tmp_path, ClientJoined)[-1]
    (reset,) = told(tmp_path, OptimizerReset, "client-1")
    members = [r.members for r in told(tmp_path, RoundCommitted)]
    assert reason == "completed"
    assert (lost.client, lost.reason) == ("client-1", "its node is gone")
    assert (back.client, back.is_return, back.last_round) == ("client-1", True, 1)
    assert reset.rounds_missed >= 1
    assert KEYS[0] in told(tmp_path, RoundCommitted)[reset.round_num - 1].members
    assert reset.before["momentum_buffer"] > 0
    assert members[0] == KEYS
    assert members[1] == KEYS[1:]
    assert members[-1] == KEYS


def test_a_node_that_goes_between_a_look_and_a_message_is_told(tmp_path):
    def look(grid):
        grid.nodes[100].is_gone = len(told(tmp_path, RoundCommitted)) >= 1

    reason, _ = serve(tmp_path, quick(), look)

    (lost,) = told(tmp_path, ClientLost)
    assert reason == "completed"
    assert (lost.client, lost.reason) == ("client-1", "its node is gone")
    members = [r.members for r in told(tmp_path, RoundCommitted)]
    # Round 2 was asked for before the look at which it was gone.
    assert members == [KEYS, KEYS, KEYS[1:]]


def test_a_newer_node_of_a_client_takes_the_older_ones_place(tmp_path):
    def look(grid):
        if len(told(tmp_path, RoundCommitted)) == 1:
            grid.nodes[100].is_silent = True
            grid.nodes.setdefault(200, Node("client-1"))

    reason, grid = serve(tmp_path, quick(), look)

    (lost,) = told(tmp_path, ClientLost)
    assert reason == "completed"
    assert lost.reason == "another node of this client came"
    assert [r.members for r in told(tmp_path, RoundCommitted)] == [KEYS] * 3
    assert grid.nodes[200].asked[0] == "query"


def test_a_node_that_cannot_be_a_client_is_refused_and_never_asked_to_train(tmp_path):
    _, grid = serve(tmp_path, quick(), keys=[*KEYS, "server"])

    (refused,) = told(tmp_path, ClientRefused)
    assert "`'server'` cannot name a client" in refused.reason
    assert node_of(grid, "server").asked == ["query"]


def test_an_app_that_fails_is_told_and_holds_nobody_up(tmp_path):
    def look(grid):
        grid.nodes[100].error = "out of memory"

    reason, _ = serve(tmp_path, quick(round_limit_s=600.0), look)

    refused = told(tmp_path, UpdateRefused)
    rounds = told(tmp_path, RoundCommitted)
    assert reason == "completed"
    assert [(r.members, r.reason) for r in rounds] == [(KEYS[1:], "complete")] * 3
    assert {e.client for e in refused} == {"client-1"}
    assert {e.reason for e in refused} == {"its app failed: out of memory"}


def test_a_federation_whose_apps_all_fail_ends_at_once(tmp_path):
    def look(grid):
        for node in grid.nodes.values():
            node.error = "no data"

    with pytest.raises(RunDirError, match="nobody else has one to give, 2 times"):
        serve(tmp_path, quick(round_limit_s=600.0, max_tries=2), look)

    assert len(told(tmp_path, RoundAbandoned)) == 2


def limit_rounds(served, limit_s):
    """Have rounds that are opened from now on end after so long."""
    rounds = served._rounds._rounds
    rounds.rules = replace(rounds.rules, limit_ns=int(limit_s * 1e9))


def test_a_silent_node_is_waited_for_until_the_deadline_and_then_refused(tmp_path):
    grid = Grid(tmp_path, KEYS)
    served = Served(tmp_path, quick(rounds=4), grid)

    def look():
        grid.nodes[100].is_silent = len(told(tmp_path, RoundCommitted)) == 1
        # Of round 2 alone: on a busy machine the others may take as long.
        is_next = len(told(tmp_path, RoundStarted)) == 1
        limit_rounds(served, 2.0 if is_next else 600.0)

    grid.on_look = look
    served.run()

    rounds = told(tmp_path, RoundCommitted)
    assert [r.reason for r in rounds] == ["complete", "deadline"] + ["complete"] * 2
    assert rounds[1].members == KEYS[1:]
    assert rounds[1].round_ns >= 2_000_000_000
    assert [(e.client, e.reason) for e in told(tmp_path, UpdateRefused)] == [
        ("client-1", "late")
    ]


def test_a_node_that_answers_for_somebody_else_is_refused(tmp_path):
    def look(grid):
        grid.nodes[100].alias = "client-2"

    serve(tmp_path, quick(), look)

    refused = told(tmp_path, UpdateRefused)
    assert {r.members for r in told(tmp_path, RoundCommitted)} == {KEYS[1:]}
    assert {(e.client, e.reason) for e in refused} == {
        ("client-1", "its node answers for `'client-2'`")
    }


def test_a_node_whose_answer_holds_no_chunks_is_refused(tmp_path):
    def leave_out(grid):
        node_of(grid, "client-1").is_without_chunks = True

    reason, _ = serve(tmp_path, quick(rounds=1), leave_out)

    (round_,) = told(tmp_path, RoundCommitted)
    (refused,) = told(tmp_path, UpdateRefused)
    assert reason == "completed"
    assert round_.members == KEYS[1:]
    assert refused.client == "client-1"
    assert "sent no chunks" in refused.reason


def test_a_node_does_not_train_for_another_client(tmp_path):
    def look(grid):
        # Its configuration was changed after it had said who it is.
        if told(tmp_path, RoundStarted):
            grid.nodes[100].key = "client-2"

    serve(tmp_path, quick(), look)

    refused = told(tmp_path, UpdateRefused)
    assert {r.members for r in told(tmp_path, RoundCommitted)} == {KEYS[1:]}
    assert {e.reason for e in refused} == {
        "its app failed: `client-1` was asked, this node is `client-2`"
    }


def test_a_server_that_is_started_again_goes_on(tmp_path):
    serve(tmp_path, quick(rounds=2))

    reason, _ = serve(tmp_path, quick(rounds=4))

    assert reason == "completed"
    assert [e.round_num for e in told(tmp_path, RoundCommitted, attempt=2)] == [3, 4]
    for key in client_keys(quick()):
        assert told(tmp_path, OptimizerReset, key, attempt=2) == []


def serve_as_an_app(run_dir, monkeypatch, **given):
    """Run the app's own `main`, as Flower's process would, and return its attempt."""
    versions = {"flwr": "1.41.0"}
    version = importlib.metadata.version
    monkeypatch.setattr(
        "trainer.federated.flower.importlib.metadata.version",
        lambda name: versions.get(name) or version(name),
    )
    config = {"data": "linear", "rounds": 1, "clients": 1, "min-clients": 1}
    names = {name.replace("_", "-"): value for name, value in given.items()}
    context = SimpleNamespace(run_config=config | {"run-dir": str(run_dir)} | names)
    flower.serve(Grid(run_dir, KEYS[:1]), context)
    return read_attempt(RunDir(run_dir), 1)


def test_the_command_that_an_app_is_given_can_be_resumed_with(tmp_path, monkeypatch):
    command = "/srv/flower/run.sh '/data/my run' rounds=3"

    attempt = serve_as_an_app(tmp_path / "a", monkeypatch, resume_command=command)
    without = serve_as_an_app(tmp_path / "b", monkeypatch, resume_command="")

    assert attempt.resume_command == (
        "/srv/flower/run.sh",
        "/data/my run",
        "rounds=3",
    )
    assert without.resume_command is None


def test_a_command_that_no_shell_would_take_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="`resume-command` cannot be read: No closing"):
        serve_as_an_app(tmp_path, monkeypatch, resume_command="run.sh 'x")


class Operator:
    """Writes requests one after the other, and waits for what comes of each."""

    def __init__(self, run_dir):
        self._run = RunDir(run_dir)
        self._pause = threading.Event()

    def until(self, condition):
        for _ in range(5_000):
            if condition():
                return
            self._pause.wait(0.01)
        raise AssertionError("waited in vain")

    def ask(self, kind, args=None):
        num_done = len(told(self._run.path, RequestDone))
        write_request(self._run, kind, args)
        self.until(lambda: len(told(self._run.path, RequestDone)) > num_done)

    def num_committed(self):
        return len(told(self._run.path, RoundCommitted))


def test_an_operator_pauses_restores_mends_continues_and_stops(tmp_path):
    operator = Operator(tmp_path)
    served = []
    config = quick(rounds=100_000)
    running = threading.Thread(
        target=lambda: served.append(serve(tmp_path, config)[0]), daemon=True
    )

    running.start()
    operator.until(lambda: operator.num_committed() >= 2)
    operator.ask("pause")
    num_paused = operator.num_committed()
    with ChunkStore.open(RunDir(tmp_path).chunk_store("client-1")) as store:
        layout = store.layout(2)
    name = next(row.name for row in layout.tensors if row.kind == "parameter")
    digest = next(c.digest for c in layout.chunks if c.parts[0].name == name)
    flip_bit(RunDir(tmp_path).chunk_store("client-1"), digest)
    operator.ask("repair", {"node": "client-1"})
    operator.ask("restore", {"node": "client-1", "round_num": 2})
    operator.ask("restore", {"node": "client-1", "round_num": 99_999})
    operator.ask("continue")
    operator.until(lambda: operator.num_committed() >= num_paused + 3)
    operator.ask("stop")
    running.join(60)

    rounds = told(tmp_path, RoundCommitted)
    (repaired,) = told(tmp_path, ChunkRepaired)
    assert served == ["stopped"]
    assert (repaired.store, repaired.source) == ("client-1", "server")
    (at,) = [n for n, r in enumerate(rounds) if r.reason == "restored"]
    assert at - num_paused in {0, 1}
    assert rounds[at].source == "client-1 round 2"
    assert rounds[at + 1].members == KEYS
    errors = [e.error is None for e in told(tmp_path, RequestDone)]
    assert errors == [True, True, True, False, True, True]


def test_what_is_asked_for_during_a_round_waits_for_its_end(tmp_path, monkeypatch):
    """Stores are looked into when it is seen and when it is done, and not between."""
    operator, looks, opened = Operator(tmp_path), [], []

    def counted(*args):
        opened.append(len(looks))
        return adoption(*args)

    monkeypatch.setattr("trainer.federated.flower_requests.adoption", counted)

    def look(grid):
        held = grid.nodes[100]
        if operator.num_committed() == 1 and not told(tmp_path, RequestSeen):
            held.is_silent = True
            write_request(
                RunDir(tmp_path), "restore", {"node": "server", "round_num": 1}
            )
        elif opened:
            looks.append(grid)
            held.is_silent = len(looks) < 10

    serve(tmp_path, quick(rounds=4), look)

    rounds = told(tmp_path, RoundCommitted)
    assert [r.reason for r in rounds] == [
        "complete",
        "complete",
        "restored",
        "complete",
    ]
    assert rounds[2].model_digest == rounds[0].model_digest
    assert len(opened) == 2
    assert opened[0] < 10 <= opened[1]


def test_what_can_never_be_is_refused_while_a_round_is_open(tmp_path):
    """The round waits for a node that answers once the request has its outcome."""
    operator, num_committed = Operator(tmp_path), []

    def look(grid):
        held = grid.nodes[100]
        if operator.num_committed() == 1 and not told(tmp_path, RequestSeen):
            held.is_silent = True
            write_request(
                RunDir(tmp_path), "restore", {"node": "server", "round_num": 99_999}
            )
        elif told(tmp_path, RequestDone):
            held.is_silent = False
            num_committed.append(operator.num_committed())

    reason, _ = serve(tmp_path, quick(rounds=3), look)

    (done,) = told(tmp_path, RequestDone)
    assert reason == "completed"
    assert "does not hold round 99999" in done.error
    assert num_committed[0] == 1


def test_a_server_whose_directory_is_another_runs_ends_and_touches_nothing(tmp_path):
    run_dir = tmp_path / "run"
    other = replaced.other_run(tmp_path / "other", "federated")
    before = replaced.contents(other)

    def look(_):
        if other.exists() and told(run_dir, RoundCommitted):
            replaced.replace(run_dir, other)

    with pytest.raises(LockedError, match="another run lies in"):
        serve(run_dir, quick(rounds=99), look)

    assert replaced.contents(run_dir) == before
