"""The server's model: averaged, measured, durable, and the same again after a kill."""

import pytest
import torch

from agent.rundir.errors import RunDirError
from tests.trainer.federated.bench import KEYS, make_global, run_rounds, toy
from trainer.chunks.store import ChunkStore
from trainer.federated.problem import server_data
from trainer.federated.replay import replay


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chunks" / "server" / "server_chunks.db"


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
