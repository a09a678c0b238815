"""The server's model: averaged, measured, durable, and the same again after a kill."""

import pytest
import torch

from agent.rundir.chunks.errors import DamagedChunkError
from agent.rundir.errors import RunDirError
from tests.trainer.chunks.store_faults import editing, flip_bit
from tests.trainer.federated.bench import (
    as_update,
    global_tensors,
    make_bench,
    make_global,
    toy,
    train,
)
from trainer.chunks.repair import repair_store
from trainer.chunks.store import ChunkStore
from trainer.federated import global_model
from trainer.federated.problem import Shape, server_data
from trainer.federated.replay import replay
from trainer.federated.transfer import ForeignModelError

KEYS = ("client-1", "client-2", "client-3")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chunks" / "server" / "server_chunks.db"


def run_rounds(model, config, rounds, keys=KEYS):
    """Run rounds in which every client starts afresh: state is not the point."""
    for round_num in rounds:
        updates = []
        for key in keys:
            bench = make_bench(config, key)
            train(bench, round_num, global_tensors(model))
            updates.append(as_update(bench, key))
        done = model.advance(round_num, updates)
    return done


def test_the_loss_falls_and_each_round_names_its_members(path):
    config = toy()
    model = make_global(path, config)

    losses = [
        run_rounds(model, config, [round_num]).measured.loss for round_num in (1, 2, 3)
    ]

    assert losses == sorted(losses, reverse=True)
    assert model.acked == dict.fromkeys(KEYS, 3)
    with ChunkStore.open(path) as store:
        assert [row.members for row in store.rounds()] == [KEYS] * 3
    model.close()


@pytest.mark.parametrize("changes", [{}, {"server_momentum": 0.9, "server_lr": 0.7}])
def test_a_restarted_server_goes_on_bit_for_bit(path, tmp_path, changes):
    config = toy(**changes)
    whole = make_global(tmp_path / "other" / "other_chunks.db", config)
    run_rounds(whole, config, (1, 2, 3, 4))
    model = make_global(path, config)
    run_rounds(model, config, (1, 2))
    model.close()

    again = make_global(path, config)
    begun_at, acked = again.round_num, dict(again.acked)
    run_rounds(again, config, (3, 4))

    assert begun_at == 2
    assert acked == dict.fromkeys(KEYS, 2)
    assert again.packed.digest == whole.packed.digest
    again.close()
    whole.close()


def damage(path, *rounds):
    with ChunkStore.open(path) as store:
        digests = {
            round_num: store.layout(round_num).chunks[0].digest for round_num in rounds
        }
    for digest in digests.values():
        flip_bit(path, digest)
    return digests


def test_a_server_whose_newest_rounds_are_damaged_goes_on_from_one_that_is_whole(path):
    config = toy(rounds=9)
    model = make_global(path, config)
    first = run_rounds(model, config, (1,)).packed.digest
    run_rounds(model, config, (2, 3))
    model.close()
    damage(path, 2, 3)

    again = make_global(path, config)

    found = again.recovery
    assert [error.place.round_num for error in found.damages] == [3, 2]
    assert (found.source_round, found.done.round_num) == (1, 4)
    assert (again.round_num, again.restored_round) == (4, 4)
    assert again.acked == dict.fromkeys(KEYS, 3)
    assert again.packed.digest == first
    run_rounds(again, config, (5,))
    again.close()
    once_more = make_global(path, config)
    assert (once_more.round_num, once_more.recovery) == (5, None)
    once_more.close()


def test_a_round_whose_rows_were_changed_is_passed_over_too(path):
    config = toy(rounds=9)
    model = make_global(path, config)
    run_rounds(model, config, (1, 2))
    model.close()
    with editing(path) as conn:
        conn.execute("UPDATE tensors SET name = 'x' WHERE round_num = 2")

    again = make_global(path, config)

    assert (again.recovery.source_round, again.round_num) == (1, 3)
    again.close()


def test_a_server_without_a_round_that_is_whole_does_not_begin_anew(path):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, (1, 2))
    model.close()
    damage(path, 1, 2)

    with pytest.raises(DamagedChunkError, match="round 2 at `server`"):
        make_global(path, config)


def test_a_damaged_round_that_can_be_repaired_is_not_given_up(path):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, (1, 2))
    with ChunkStore.open(path.parent.parent / "c" / "c_chunks.db") as other:
        other.put_round(1, model.tensors)
    model.close()
    damage(path, 2)

    with pytest.raises(DamagedChunkError, match="also held by `c`") as caught:
        make_global(path, config)
    repair_store(path)
    again = make_global(path, config)

    assert "trainer repair" in caught.value.hint
    assert (again.round_num, again.recovery) == (2, None)
    again.close()


def test_the_last_acknowledged_round_of_an_absent_client_is_kept(path):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, [1])
    run_rounds(model, config, [2], keys=KEYS[1:])
    model.close()

    again = make_global(path, config)

    assert again.acked == {"client-1": 1, "client-2": 2, "client-3": 2}
    again.close()


def test_a_round_that_cannot_be_stored_changes_nothing(path):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, [1])
    before = model.packed.digest
    model.close()

    with pytest.raises(RunDirError):
        run_rounds(model, config, [2])

    assert model.round_num == 1
    assert model.packed.digest == before
    assert model.acked == dict.fromkeys(KEYS, 1)


@pytest.mark.parametrize("changes", [{}, {"server_momentum": 0.5}])
def test_committed_rounds_equal_a_replay_of_their_members(path, changes):
    config = toy(**changes)
    model = make_global(path, config)
    run_rounds(model, config, (1, 2))
    run_rounds(model, config, [3], keys=KEYS[:1])
    model.close()

    replayed = list(replay(path, config, server_data(config).shape))

    assert [one.round_num for one in replayed] == [1, 2, 3]
    assert [one.differing for one in replayed] == [()] * 3
    assert replayed[2].members == ("client-1",)


def test_a_replay_notices_a_round_that_was_made_of_something_else(path):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, (1, 2))
    model.close()
    with ChunkStore.open(path) as store:
        tensors = store.get_round(2)
        beside = store.get_optimizer(2)
        tensors["fc.bias"] += 1e-7
        store.put_round(2, tensors, optimizer=beside, members=KEYS[:2], replace=True)

    replayed = list(replay(path, config, server_data(config).shape))

    assert [one.differing for one in replayed] == [(), ("fc.bias", "members")]


def test_only_as_many_rounds_are_kept_as_configured(path):
    config = toy(chunk_keep_rounds=2)
    model = make_global(path, config)

    done = run_rounds(model, config, (1, 2, 3, 4))

    assert done.put.pruned == (2,)
    assert done.stats.num_rounds == 2
    model.close()


def test_an_earlier_round_can_be_gone_back_to_as_a_round_of_its_own(path):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, [1])
    first = model.packed.digest
    run_rounds(model, config, (2, 3))

    done = model.adopt(4, path, 1)

    assert done.packed.digest == first
    assert done.members == ()
    assert model.round_num == 4
    assert model.acked == dict.fromkeys(KEYS, 3)
    model.close()
    again = make_global(path, config)
    assert again.packed.digest == first
    assert again.restored_round == 4
    again.close()


def test_part_of_a_round_can_be_taken(path):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, [1])
    bias = model.tensors["fc.bias"]
    run_rounds(model, config, [2])
    weight = model.tensors["fc.weight"]

    model.adopt(3, path, 1, pattern="*.bias")

    assert torch.equal(model.tensors["fc.bias"], bias)
    assert torch.equal(model.tensors["fc.weight"], weight)
    model.close()


def test_a_round_of_another_model_does_not_fit(path, tmp_path):
    config = toy()
    model = make_global(path, config)
    other = tmp_path / "chunks" / "client-9" / "client-9_chunks.db"
    with ChunkStore.open(other) as store:
        store.put_round(1, {"fc.weight": torch.zeros(3, 3)})

    with pytest.raises(RunDirError, match="shape"):
        model.adopt(1, other, 1)

    assert model.round_num == 0
    model.close()


def test_held_out_digits_are_measured_with_calibrated_statistics(path):
    config = toy(data="digits", local_steps=3, alpha=100.0, lr=0.05)
    model = make_global(path, config)

    done = run_rounds(model, config, (1, 2))

    assert done.measured.buffers == "calibration"
    assert done.measured.accuracy_frac > 0.3
    stored = ChunkStore.open(path)
    assert torch.any(stored.get_round(2)["features.1.running_mean"] != 0)
    stored.close()
    model.close()


def test_averaged_statistics_are_used_where_they_are_averaged(path):
    config = toy(data="digits", local_steps=3, alpha=100.0, average_buffers=True)
    model = make_global(path, config)

    done = run_rounds(model, config, [1])

    assert done.measured.buffers == "average"
    assert torch.any(model.tensors["features.1.running_mean"] != 0)
    model.close()


def test_another_runs_store_is_refused(path, monkeypatch):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, [1])
    model.close()

    monkeypatch.setattr("tests.trainer.federated.bench.RUN_ID", "another")

    with pytest.raises(RunDirError, match="belongs to run `run`"):
        make_global(path, config)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            Shape(inputs=(1, 8, 8), num_classes=10),
            "`fc.bias` is float32 [1], this",
        ),
        (
            Shape(inputs=(7,), num_classes=0),
            "`fc.weight` is float32 [1, 10], this",
        ),
    ],
)
def test_a_store_of_another_model_is_refused_by_name(path, monkeypatch, other, told):
    config = toy()
    model = make_global(path, config)
    run_rounds(model, config, [1])
    model.close()
    make = global_model.make_model
    monkeypatch.setattr(
        global_model, "make_model", lambda _shape, seed: make(other, seed)
    )

    with pytest.raises(ForeignModelError) as caught:
        make_global(path, config)

    assert told in str(caught.value)
