"""Rounds, clients and chunk stores; and why there are none in a DDP run."""

import pytest

from agent.rundir import events as ev
from opsdash.projections import rounds as module
from opsdash.projections.run_state import State
from opsdash.reports.status import make_status, render_status
from tests.runs import RunWriter, Watcher

CLIENTS = ("client-1", "client-2", "client-3")


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "fl", kind="federated", world_size=3)
    writer.begin()
    for client in CLIENTS:
        writer.emit("server", ev.ClientJoined, client=client, session="s")
    return writer


def play(writer, number, members=CLIENTS, **fields):
    writer.emit(
        "server",
        ev.RoundStarted,
        clients=CLIENTS,
        model_digest="m",
        round_num=number,
    )
    for client in members:
        writer.emit(
            "server",
            ev.ClientUpdate,
            client=client,
            num_examples=10,
            loss=1.0,
            round_num=number,
        )
    writer.emit(
        "server",
        ev.RoundCommitted,
        **{
            "members": tuple(members),
            "num_selected": 3,
            "round_ns": 10**9,
            "model_digest": "m",
            "round_num": number,
            **fields,
        },
    )


def test_a_round_knows_who_took_part_and_who_is_missing(writer):
    play(writer, 1)
    play(writer, 2, CLIENTS[:2], reason="deadline", accuracy_frac=0.9)

    rounds = Watcher(writer.run).run.rounds
    newest = rounds.rows()[0]

    assert (newest.round_num, newest.missing) == (2, ("client-3",))
    assert (newest.reason, newest.accuracy_frac) == ("deadline", 0.9)
    assert rounds.last_committed == 2
    assert newest.updates["client-1"].num_examples == 10


def test_a_round_that_was_given_up_says_why_until_it_is_opened_again(writer):
    given_up = {"reason": "1 of 2 updates", "num_updates": 1, "num_selected": 3}
    opened = {"clients": CLIENTS, "model_digest": "m", "round_num": 1}
    writer.emit("server", ev.RoundStarted, **opened)
    writer.emit("server", ev.RoundAbandoned, round_num=1, **given_up)
    watcher = Watcher(writer.run)
    (before,) = watcher.run.rounds.rows()
    writer.emit("server", ev.RoundStarted, **opened)

    (after,) = watcher.read().rounds.rows()

    assert (before.why_abandoned, before.reason) == ("1 of 2 updates", None)
    assert (after.why_abandoned, after.reason) == (None, None)


def test_a_round_that_was_told_late_knows_how_many_were_asked(writer):
    done = {"members": CLIENTS[:2], "num_selected": 3, "round_ns": 10**9}
    writer.emit("server", ev.RoundCommitted, round_num=1, model_digest="m", **done)

    (row,) = Watcher(writer.run).run.rounds.rows()

    assert (row.num_members, row.num_clients) == (2, 3)


def test_an_update_tells_how_many_rounds_its_client_had_missed(writer):
    update = {"client": "client-1", "num_examples": 10, "round_num": 4}
    writer.emit("server", ev.ClientUpdate, rounds_missed=3, **update)

    (row,) = Watcher(writer.run).run.rounds.rows()

    assert row.updates["client-1"].rounds_missed == 3


def test_a_client_that_was_lost_is_missing_until_it_is_back(writer):
    play(writer, 1)
    writer.emit("server", ev.ClientLost, client="client-2", session="s", reason="cut")
    watcher = Watcher(writer.run)
    lost = watcher.run.rounds.clients()[0]
    writer.emit(
        "server", ev.ClientJoined, client="client-2", session="t", is_return=True
    )

    back = next(c for c in watcher.read().rounds.clients() if c.client == "client-2")

    assert (lost.client, lost.is_present, lost.why_absent) == ("client-2", False, "cut")
    assert lost.since_round == 1
    assert (back.is_present, back.num_returns) == (True, 1)


def presence(watcher):
    rows = watcher.read().rounds.clients()
    return {row.client: (row.is_present, row.why_absent) for row in rows}


def test_an_update_told_after_its_client_was_lost_does_not_bring_it_back(writer):
    where = {"round_num": 1}
    writer.emit("server", ev.RoundStarted, clients=CLIENTS, model_digest="m", **where)
    writer.emit("server", ev.ClientLost, client="client-2", session="s", reason="cut")
    writer.emit("server", ev.ClientUpdate, client="client-2", num_examples=1, **where)

    found = presence(Watcher(writer.run))

    assert found["client-2"] == (False, "cut")


def test_a_client_that_was_only_heard_in_rounds_is_there(tmp_path):
    writer = RunWriter(tmp_path / "fl", kind="federated", world_size=3)
    writer.begin()
    play(writer, 7, CLIENTS[:2])

    assert presence(Watcher(writer.run))["client-1"] == (True, None)


def test_who_does_not_join_a_server_that_began_anew_is_missing(writer):
    play(writer, 1)
    writer.begin()
    writer.emit("server", ev.ClientJoined, client="client-1", session="t")

    found = presence(Watcher(writer.run))

    assert found["client-1"] == (True, None)
    assert found["client-2"] == (False, "not back since the server began anew")


def test_a_round_that_is_told_late_keeps_what_was_told_of_it_before(writer):
    play(writer, 1)
    told = {"num_examples": 10, "round_num": 2}
    opened = {"clients": CLIENTS, "model_digest": "m", "round_num": 2}
    writer.emit("server", ev.RoundStarted, **opened)
    writer.emit("server", ev.ClientUpdate, client="client-1", **told)
    writer.begin()
    writer.emit("server", ev.ClientUpdate, client="client-2", **told)
    writer.emit(
        "server",
        ev.RoundCommitted,
        members=CLIENTS[:2],
        num_selected=3,
        round_ns=10**9,
        model_digest="m",
        loss=0.5,
        round_num=2,
    )
    watcher = Watcher(writer.run)

    newest = watcher.run.rounds.rows()[0]

    assert (newest.round_num, newest.attempt, newest.loss) == (2, 1, 0.5)
    assert newest.updates.keys() == {"client-1", "client-2"}
    assert newest.missing == ("client-3",)
    assert presence(watcher)["client-2"][0] is False


def test_a_restored_round_takes_the_place_of_one_of_an_attempt_before(writer):
    play(writer, 1)
    play(writer, 2)
    writer.begin()
    writer.emit(
        "server",
        ev.RoundCommitted,
        members=(),
        num_selected=0,
        round_ns=10**9,
        model_digest="m",
        reason="restored",
        source="server round 1",
        round_num=1,
    )
    rounds = Watcher(writer.run).run.rounds

    assert [(row.round_num, row.attempt) for row in rounds.rows()] == [(1, 2)]
    assert rounds.rows()[0].restored_from == "server round 1"


def test_a_missing_client_degrades_the_run(writer):
    play(writer, 1)
    writer.beat(phase="training")
    writer.emit("server", ev.ClientLost, client="client-2", session="s", reason="cut")

    verdict = Watcher(writer.run).verdict()

    assert verdict.state == "degraded"
    assert "client-2 is missing since round 1: cut" in verdict.headline


def test_that_a_missing_client_is_silent_is_not_said_too(writer):
    play(writer, 1)
    writer.beat("server", *CLIENTS)
    watcher = Watcher(writer.run)
    writer.emit("server", ev.ClientLost, client="client-2", session="s", reason="cut")
    writer.wait(20)
    watcher.clocks.wait(20)
    writer.beat("server", "client-1", "client-3")
    watcher.read()
    texts = watcher.reasons()

    assert [text for text in texts if "client-2" in text] == [
        "client-2 is missing since round 1: cut"
    ]


def test_a_server_that_restarts_repeats_its_round(writer):
    play(writer, 1)
    play(writer, 2)
    writer.begin()
    play(writer, 2, CLIENTS[:1])

    rows = Watcher(writer.run).run.rounds.rows()

    assert [(r.round_num, r.attempt, len(r.members)) for r in rows] == [
        (2, 2, 1),
        (1, 1, 3),
    ]


def test_resets_and_refusals_stand_at_their_round(writer):
    play(writer, 1)
    writer.emit(
        "client-2",
        ev.OptimizerReset,
        optimizer="SGD",
        reason="1 round missed",
        before={},
        after={},
        round_num=1,
    )
    writer.emit(
        "server", ev.UpdateRefused, client="client-3", reason="late", round_num=1
    )

    (row,) = Watcher(writer.run).run.rounds.rows()

    assert row.reset == ("client-2",)
    assert row.refused == {"client-3": "late"}


def test_a_reset_after_a_missed_round_stands_where_the_client_counts_again(writer):
    play(writer, 1, ("client-1", "client-3"))
    writer.emit(
        "client-2",
        ev.OptimizerReset,
        optimizer="SGD",
        reason="reconnected after missing 1 round",
        before={},
        after={},
        round_num=1,
    )
    play(writer, 2)
    play(writer, 3)

    rows = Watcher(writer.run).run.rounds.rows()

    assert [(row.round_num, row.reset) for row in rows] == [
        (3, ()),
        (2, ("client-2",)),
        (1, ()),
    ]


def test_old_rounds_keep_figures_and_lose_details(writer, monkeypatch):
    monkeypatch.setattr(module, "_MAX_DETAILED", 3)
    monkeypatch.setattr(module, "_MAX_ROUNDS", 6)
    for number in range(1, 11):
        play(writer, number)

    rows = Watcher(writer.run).run.rounds.rows()

    assert [row.round_num for row in rows] == [10, 9, 8, 7, 6, 5]
    assert [row.is_detailed for row in rows] == [True] * 3 + [False] * 3
    assert all(row.num_members == 3 for row in rows)


def test_only_the_open_round_is_at_risk(writer):
    play(writer, 1)
    play(writer, 2)
    watcher = Watcher(writer.run)
    before = watcher.verdict()
    writer.emit(
        "server", ev.RoundStarted, clients=CLIENTS, model_digest="m", round_num=3
    )
    watcher.read()

    after = watcher.verdict()

    assert (before.step, before.steps_at_risk) == (2, 0)
    assert (after.step, after.steps_at_risk) == (2, 1)


def test_a_round_that_was_open_at_the_end_is_no_risk(writer):
    play(writer, 1)
    writer.emit(
        "server", ev.RoundStarted, clients=CLIENTS, model_digest="m", round_num=2
    )
    writer.end("stopped")

    verdict = Watcher(writer.run).verdict()

    assert (verdict.state, verdict.step) == (State.FINISHED, 1)
    assert verdict.steps_at_risk is None


def test_the_report_speaks_of_rounds(writer):
    play(writer, 1, loss=0.5, accuracy_frac=0.8)
    writer.beat(phase="waiting")
    watcher = Watcher(writer.run)

    report = make_status(watcher.run, watcher.clocks.mono_ns, watcher.clocks.time_ns)
    lines = render_status(report)

    assert "round     1, loss 0.5, accuracy 80 %, 1.0 s per round" in lines
    assert "saved     round 1 is committed" in lines
    assert report.ranks[0].node == "server"


def test_a_store_tells_its_figures_and_its_failures(writer):
    stats = {
        "num_rounds": 1,
        "num_chunks": 10,
        "new_chunks": 10,
        "new_bytes": 100,
        "shared_bytes": 0,
        "file_bytes": 4_096,
        "put_ns": 5,
    }
    writer.emit("client-1", ev.StoreStats, **stats, round_num=1)
    writer.emit("client-1", ev.StoreStats, **stats, error="disk full", round_num=2)
    writer.emit(
        "server",
        ev.ChunkDamaged,
        store="client-1",
        chunk=3,
        digest="d",
        reason="digest differs",
    )
    watcher = Watcher(writer.run)
    (damaged,) = watcher.run.chunks.rows()
    writer.emit("server", ev.ChunkRepaired, store="client-1", digest="d", source="x")

    (repaired,) = watcher.read().chunks.rows()

    assert (damaged.round_num, damaged.num_failed, damaged.num_damaged) == (1, 1, 1)
    assert repaired.num_damaged == 0


def test_a_data_parallel_run_says_why_it_has_neither(tmp_path):
    writer = RunWriter(tmp_path / "ddp")
    writer.begin()

    run = Watcher(writer.run).run

    assert "data-parallel" in run.rounds.why_empty(run.kind)
    assert "data-parallel" in run.chunks.why_empty(run.kind)


def test_a_federated_run_without_rounds_says_so(tmp_path):
    writer = RunWriter(tmp_path / "fl", kind="federated")
    writer.begin()

    run = Watcher(writer.run).run

    assert run.rounds.why_empty(run.kind) == "no round was opened yet"
    assert "yet" in run.chunks.why_empty(run.kind)
