"""A client's state goes on, is taken back, or is reset: never anything between."""

import shutil

import pytest
import torch

from tests.trainer.chunks.store_faults import editing, flip_bit
from tests.trainer.federated.bench import (
    as_update,
    global_tensors,
    make_bench,
    make_global,
    toy,
    train,
)
from trainer.chunks.store import ChunkStore
from trainer.federated.local import model_of, optimizer_of
from trainer.federated.session import Standing
from trainer.federated.workbench import Workbench


@pytest.fixture
def model(tmp_path):
    made = make_global(tmp_path / "server" / "server_chunks.db", toy())
    yield made
    made.close()


def store_path(tmp_path):
    return tmp_path / "client-1" / "client-1_chunks.db"


def momentum_norm(bench):
    states = bench.local.optimizer.state.values()
    return sum(float(s["momentum_buffer"].norm()) for s in states)


def advance(model, bench, round_num):
    """One round of a federation with a single client."""
    reset, update = train(bench, round_num, global_tensors(model))
    model.advance(round_num, [as_update(bench, "client-1")])
    bench.acknowledge(round_num)
    return reset, update


def weights(bench):
    return {n: t.detach().clone() for n, t in bench.local.model.named_parameters()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_optimizer_state_lives_across_consecutive_rounds(model):
    bench = make_bench(toy())

    resets = [advance(model, bench, round_num)[0] for round_num in (1, 2, 3)]

    assert resets == [None] * 3
    assert bench.local.num_steps == 6
    assert momentum_norm(bench) > 0


def test_a_missed_round_clears_the_state_and_says_so(model):
    bench = make_bench(toy())
    advance(model, bench, 1)
    before = momentum_norm(bench)

    reset = bench.settle(server_acked=1, attempt=1, last_round=4)

    assert before > 0
    assert bench.local.optimizer.state == {}
    assert bench.local.optimizer.param_groups[0]["momentum"] == 0.9
    assert reset.loss.reason == "reconnected after missing 3 rounds"
    assert reset.loss.rounds_missed == 3
    assert reset.change.before["momentum_buffer"] > 0
    assert reset.change.after["momentum_buffer"] == 0
    assert reset.data_position == 32


def test_after_a_reset_it_trains_like_a_client_that_has_just_begun(model):
    bench, newcomer = make_bench(toy()), make_bench(toy())
    advance(model, bench, 1)

    bench.settle(server_acked=1, attempt=1, last_round=4)
    train(bench, 5, global_tensors(model))
    train(newcomer, 5, global_tensors(model))

    assert equal(weights(bench), weights(newcomer))


def test_keeping_the_state_is_possible_for_the_experiment(model):
    bench = make_bench(toy(policy="keep"))
    advance(model, bench, 1)
    before = momentum_norm(bench)

    reset = bench.settle(server_acked=1, attempt=1, last_round=4)
    bench.prepare(5, global_tensors(model))

    assert reset is None
    assert momentum_norm(bench) == before


def test_decaying_shrinks_the_state_once_per_missed_round(model):
    bench = make_bench(toy(policy="decay", decay=0.5))
    advance(model, bench, 1)
    before = momentum_norm(bench)

    reset = bench.settle(server_acked=1, attempt=1, last_round=4)
    again = bench.prepare(5, global_tensors(model))

    assert again is None
    assert momentum_norm(bench) == pytest.approx(before / 8)
    change = reset.change
    key = "momentum_buffer"
    assert change.after[key] == pytest.approx(change.before[key] / 8)


def test_an_update_that_did_not_count_is_taken_back(model):
    bench, twin = make_bench(toy()), make_bench(toy())
    for one in (bench, twin):
        train(one, 1, global_tensors(model))
        one.acknowledge(1)
    first = model.tensors
    train(bench, 2, global_tensors(model))

    # The server restarts before it committed round 2, and asks for it again.
    bench.settle(server_acked=1, attempt=2, last_round=1)
    _, again = train(bench, 2, first, attempt=2)
    _, expected = train(twin, 2, first, attempt=2)

    assert again.packed.digest == expected.packed.digest
    assert bench.local.num_steps == 4
    assert momentum_norm(bench) == momentum_norm(twin)


def test_a_cancelled_round_leaves_no_trace():
    bench, twin = make_bench(toy()), make_bench(toy())
    for one in (bench, twin):
        train(one, 1, initial())
        one.acknowledge(1)
    steps = []

    bench.prepare(2, initial())
    cancelled = bench.train(
        2, 1, "base", is_cancelled=lambda: len(steps) == 1, on_step=steps.append
    )
    _, again = train(bench, 2, initial())
    _, expected = train(twin, 2, initial())

    assert cancelled is None
    assert len(steps) == 1
    assert again.packed.digest == expected.packed.digest


def initial():
    """Return the global model as it is before round 1."""
    fresh = make_bench(toy())
    return {n: t.detach().clone() for n, t in fresh.local.averaged_tensors().items()}


def test_a_restarted_client_goes_on_where_the_server_says_it_was(tmp_path):
    config = toy()
    bench, twin = make_bench(config, path=store_path(tmp_path)), make_bench(config)
    for one in (bench, twin):
        train(one, 1, initial())
        one.acknowledge(1)
    bench.close()

    restarted = make_bench(config, path=store_path(tmp_path))
    reset = restarted.settle(server_acked=1, attempt=1, last_round=1)
    _, again = train(restarted, 2, initial())
    _, expected = train(twin, 2, initial())

    assert reset is None
    assert again.packed.digest == expected.packed.digest
    assert momentum_norm(restarted) == momentum_norm(twin)
    assert restarted.local.num_steps == 4
    restarted.close()


def test_a_client_killed_before_it_heard_of_the_commit_catches_up(tmp_path):
    config = toy()
    bench = make_bench(config, path=store_path(tmp_path))
    train(bench, 1, initial())
    norm = momentum_norm(bench)
    bench.close()

    restarted = make_bench(config, path=store_path(tmp_path))
    reset = restarted.settle(server_acked=1, attempt=1, last_round=1)
    restarted.prepare(2, initial())

    assert reset is None
    assert momentum_norm(restarted) == norm
    restarted.close()


def test_a_client_killed_before_the_commit_starts_the_round_from_the_one_before(
    tmp_path,
):
    config = toy()
    bench = make_bench(config, path=store_path(tmp_path))
    train(bench, 1, initial())
    bench.acknowledge(1)
    norm = momentum_norm(bench)
    train(bench, 2, initial())
    bench.close()

    restarted = make_bench(config, path=store_path(tmp_path))
    reset = restarted.settle(server_acked=1, attempt=1, last_round=1)
    restarted.prepare(2, initial())

    assert reset is None
    assert momentum_norm(restarted) == norm
    assert restarted.local.num_steps == 2
    restarted.close()


def test_a_client_that_lost_its_disk_starts_over_and_says_so(tmp_path):
    config = toy()
    bench = make_bench(config)

    reset = bench.settle(server_acked=3, attempt=1, last_round=3)

    assert reset.loss.reason == (
        "restarted without the state of round 3, the last acknowledged"
    )
    assert bench.local.optimizer.state == {}


def test_a_reset_survives_a_restart(tmp_path):
    config = toy()
    bench = make_bench(config, path=store_path(tmp_path))
    train(bench, 1, initial())
    bench.acknowledge(1)
    bench.settle(server_acked=1, attempt=1, last_round=4)
    bench.close()

    restarted = make_bench(config, path=store_path(tmp_path))
    reset = restarted.settle(server_acked=1, attempt=1, last_round=4)
    restarted.prepare(5, initial())

    assert reset is None
    assert not restarted.local.optimizer.state
    restarted.close()


def test_a_decayed_state_that_a_restart_lost_is_told_as_lost(tmp_path):
    config = toy(policy="decay", decay=0.5)
    bench = make_bench(config, path=store_path(tmp_path))
    train(bench, 1, initial())
    bench.acknowledge(1)
    bench.settle(server_acked=1, attempt=1, last_round=4)
    bench.close()

    restarted = make_bench(config, path=store_path(tmp_path))
    reset = restarted.settle(server_acked=1, attempt=1, last_round=4)

    assert reset.loss.reason == (
        "restarted without the state of round 1, the last acknowledged"
    )
    restarted.close()


def test_another_runs_state_is_not_used(tmp_path, monkeypatch):
    config = toy()
    bench = make_bench(config, path=store_path(tmp_path))
    train(bench, 1, initial())
    bench.acknowledge(1)
    bench.close()

    monkeypatch.setattr("tests.trainer.federated.bench.RUN_ID", "another")
    restarted = make_bench(config, path=store_path(tmp_path))

    assert restarted.standing == Standing()
    restarted.close()


def test_a_round_that_cannot_be_stored_is_told_and_training_goes_on(tmp_path):
    path = store_path(tmp_path)
    bench = make_bench(toy(), path=path)
    bench.close()

    _, update = train(bench, 1, initial())
    told = bench.acknowledge(1)

    assert update.stored.error
    assert update.stored.put is None
    assert update.report.num_steps == 2
    assert told
    assert bench.standing.acked_round == 1


def test_a_client_whose_store_is_damaged_begins_as_one_that_lost_it(tmp_path):
    path = store_path(tmp_path)
    bench = make_bench(toy(), path=path)
    train(bench, 1, initial())
    bench.acknowledge(1)
    bench.close()
    with editing(path) as conn:
        (page,) = conn.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'node_state'"
        ).fetchone()
    data = bytearray(path.read_bytes())
    data[(page - 1) * 65536 : page * 65536] = b"\xff" * 65536
    path.write_bytes(data)

    restarted = make_bench(toy(), path=path)

    assert restarted.settle(server_acked=1, attempt=1, last_round=1).loss.reason == (
        "restarted without the state of round 1, the last acknowledged"
    )
    _, update = train(restarted, 2, initial())
    assert update.stored.error
    restarted.close()


def test_a_client_whose_record_is_no_text_begins_as_one_that_lost_it(tmp_path):
    path = store_path(tmp_path)
    bench = make_bench(toy(), path=path)
    train(bench, 1, initial())
    bench.acknowledge(1)
    bench.close()
    with editing(path) as conn:
        ((key, value),) = conn.execute("SELECT key, value FROM node_state")
        rotted = value.replace(b'"run"', b'"r\xffn"')
        conn.execute("UPDATE node_state SET value = ? WHERE key = ?", (rotted, key))

    restarted = make_bench(toy(), path=path)

    assert restarted.standing == Standing()
    restarted.close()


def test_each_round_is_stored_whole(tmp_path):
    bench = make_bench(toy(chunk_num=10), path=store_path(tmp_path))

    _, update = train(bench, 1, initial())

    assert update.stored.error is None
    assert update.stored.put.num_chunks == 10
    assert update.stored.stats.num_rounds == 1
    bench.close()


def test_chunks_that_are_here_and_sound_need_not_travel(tmp_path):
    path = store_path(tmp_path)
    bench = make_bench(toy(chunk_num=10), path=path)
    train(bench, 1, initial())
    with ChunkStore.open(path) as store:
        held = {chunk.digest for chunk in store.layout(1).chunks if chunk.size_bytes}
    damaged = sorted(held)[0]
    flip_bit(path, damaged)

    known = bench.known_chunks([*sorted(held), "0" * 64])

    assert len(held) > 2
    assert known.keys() == held - {damaged}
    assert all(payload.is_sound() for payload in known.values())
    bench.close()


def test_batch_statistics_stay_with_the_client():
    config = toy(data="digits", local_steps=2, alpha=100.0)
    bench = make_bench(config)
    elsewhere = make_bench(config, key="client-2")
    train(elsewhere, 1, elsewhere.local.averaged_tensors())
    given = {n: t.clone() for n, t in elsewhere.local.averaged_tensors().items()}
    name = "features.1.running_mean"

    bench.prepare(1, given)

    mine = bench.local.tensors().tensors
    assert name not in given
    assert torch.equal(mine[name], torch.zeros(16))
    assert torch.equal(mine["head.0.weight"], given["head.0.weight"])


def test_batch_statistics_are_shared_on_demand():
    config = toy(data="digits", local_steps=2, alpha=100.0, average_buffers=True)
    bench = make_bench(config)

    assert "features.1.running_mean" in bench.local.averaged


def test_a_model_is_found_in_other_peoples_trainers():
    class Holder:
        def __init__(self, **attributes):
            self.__dict__.update(attributes)

    net = torch.nn.Linear(2, 2)
    wrapped = torch.nn.Module()
    wrapped.module = net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    assert model_of(Holder(model=net)) is net
    assert model_of(Holder(ctx=Holder(model=net), model="other")) is net
    assert model_of(Holder(model=wrapped)) is net
    assert optimizer_of(Holder(ctx=Holder(model=net, optimizer=optimizer))) is optimizer
    assert optimizer_of(Holder(model=net)) is None
    with pytest.raises(TypeError, match=r"neither at `ctx.model` nor at `model`"):
        model_of(Holder())


def test_without_an_optimizer_there_is_nothing_to_reset():
    class Frozen:
        def __init__(self, bench):
            self.model = bench.local.model

    bench = Workbench(Frozen(make_bench(toy())), toy())

    assert bench.settle(server_acked=2, attempt=1, last_round=5) is None


def go_on_with(tmp_path, model, config, num_starts):
    """Train one round, then begin so often with another configuration."""
    path = store_path(tmp_path)
    bench = make_bench(toy(lr=0.05), path=path)
    advance(model, bench, 1)
    for _ in range(num_starts):
        bench.close()
        bench = make_bench(config, path=path)
        reset = bench.settle(server_acked=1, attempt=2, last_round=1)
    bench.prepare(2, global_tensors(model))
    return bench, reset


@pytest.mark.parametrize("num_starts", [1, 2])
def test_hyperparameters_that_are_configured_anew_count(tmp_path, model, num_starts):
    bench, reset = go_on_with(tmp_path, model, toy(lr=0.001), num_starts)

    groups = bench.local.optimizer.param_groups
    assert {(group["lr"], group["momentum"]) for group in groups} == {(0.001, 0.9)}
    assert reset is None
    assert momentum_norm(bench) > 0
    bench.close()


def test_what_a_schedule_made_of_a_hyperparameter_comes_back(tmp_path, model):
    path = store_path(tmp_path)
    bench = make_bench(toy(), path=path)
    bench.local.optimizer.param_groups[0]["lr"] = 0.02
    advance(model, bench, 1)
    bench.close()

    bench = make_bench(toy(), path=path)
    bench.settle(server_acked=1, attempt=1, last_round=1)
    bench.prepare(2, global_tensors(model))

    assert bench.local.optimizer.param_groups[0]["lr"] == 0.02
    bench.close()


def test_the_state_of_another_optimizer_is_as_good_as_lost(tmp_path, model):
    config = toy(optimizer="adam", lr=0.001)

    bench, reset = go_on_with(tmp_path, model, config, 1)
    again, _ = train(bench, 2, global_tensors(model))

    assert reset.loss.reason
    assert again is None
    assert type(bench.local.optimizer).__name__ == "Adam"
    assert bench.local.optimizer.param_groups[0]["lr"] == 0.001
    bench.close()


def test_training_goes_on_where_the_client_s_disk_is_gone(tmp_path, model):
    bench = make_bench(toy(), path=store_path(tmp_path))
    advance(model, bench, 1)
    shutil.rmtree(store_path(tmp_path).parent)

    _, update = train(bench, 2, global_tensors(model))
    error = bench.acknowledge(2)

    assert "was removed or replaced" in update.stored.error
    assert "was removed or replaced" in error
    bench.close()
