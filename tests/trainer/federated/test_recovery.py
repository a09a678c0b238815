"""A server goes on where its newest round is damaged, and never begins anew."""

import pytest

from agent.rundir.chunks.errors import DamagedChunkError
from tests.trainer.chunks.store_faults import editing, flip_bit
from tests.trainer.federated.bench import KEYS, make_global, run_rounds, toy
from trainer.chunks.repair import repair_store
from trainer.chunks.store import ChunkStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "chunks" / "server" / "server_chunks.db"


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


def damage_beside(path, round_num, start):
    """Damage what a round of the server holds beside the model, by its name."""
    with ChunkStore.open(path) as store:
        chunks = store.layout(round_num).chunks
    found = [c.digest for c in chunks if c.parts[0].name.startswith(start)]
    for digest in set(found):
        flip_bit(path, digest)
    return found


def test_what_members_gave_is_not_needed_to_go_on(path, tmp_path):
    config = toy(rounds=9, server_momentum=0.5)
    whole = make_global(tmp_path / "other" / "other_chunks.db", config)
    run_rounds(whole, config, (1, 2, 3))
    model = make_global(path, config)
    run_rounds(model, config, (1, 2))
    model.close()
    assert damage_beside(path, 2, "optimizer:updates.")

    again = make_global(path, config)
    run_rounds(again, config, (3,))

    assert again.recovery is None
    assert again.packed.digest == whole.packed.digest
    again.close()
    whole.close()


def test_the_servers_momentum_is_needed_to_go_on(path):
    config = toy(rounds=9, server_momentum=0.5)
    model = make_global(path, config)
    run_rounds(model, config, (1, 2))
    model.close()
    assert damage_beside(path, 2, "optimizer:velocity.")

    again = make_global(path, config)

    assert (again.recovery.source_round, again.round_num) == (1, 3)
    again.close()
