"""Any sequence of rounds, against a dictionary that does the same."""

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rundir.chunks.errors import RoundExistsError
from tests.trainer.chunks.store_faults import same_tensors, store_path
from trainer.chunks.split import FlatSplit, TensorSplit
from trainer.chunks.store import ChunkStore

# Few different values: chunks are shared, come back, and change places.
models = st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=3).map(
    lambda tensors: {
        f"t{i}": torch.tensor(values, dtype=torch.float64).repeat_interleave(2)
        for i, values in enumerate(tensors)
    }
)
splits = st.sampled_from([TensorSplit(16), TensorSplit(32), FlatSplit(3)])
rounds = st.integers(1, 6)
keeps = st.none() | st.integers(1, 3)
steps = st.one_of(
    st.tuples(st.just("put"), rounds, models, splits, keeps, st.booleans()),
    st.tuples(st.just("receive"), rounds, models, splits, keeps),
    st.tuples(st.just("stage"), rounds, models, splits),
    st.tuples(st.just("prune"), st.integers(1, 3)),
    st.tuples(st.just("reopen")),
)


class Expected:
    """What a store must hold, done with a dictionary."""

    def __init__(self):
        self.rounds = {}

    def put(self, round_num, model, keep):
        self.rounds[round_num] = model
        if keep is not None:
            others = sorted(set(self.rounds) - {round_num}, reverse=True)
            for old in others[keep - 1 :]:
                del self.rounds[old]

    def prune(self, keep):
        for old in sorted(self.rounds, reverse=True)[keep:]:
            del self.rounds[old]


def run(folder, history):
    path = store_path(folder)
    expected = Expected()
    store = ChunkStore.open(path)
    with ChunkStore.open(store_path(folder, "sender")) as sender:
        for step in history:
            store = apply(step, store, sender, expected)
            check(store, expected)
        store.close()


def apply(step, store, sender, expected):
    kind, *rest = step
    if kind == "put":
        round_num, model, split, keep, replace = rest
        before = {row.round_num: row.digest for row in store.rounds()}
        try:
            stats = store.put_round(
                round_num, model, split=split, keep_rounds=keep, replace=replace
            )
        except RoundExistsError:
            assert round_num in expected.rounds
            assert not replace
            return store
        if before.get(round_num) == stats.digest:
            assert same_tensors(expected.rounds[round_num], model)
        else:
            expected.put(round_num, model, keep)
    elif kind in {"receive", "stage"}:
        round_num, model, split, *keep = rest
        layout = sent(sender, model, split)
        digests = store.lacking(layout)
        if kind == "stage":
            digests = digests[::2]
        store.put_chunks(map(sender.get_chunk, digests), round_num=round_num)
        if kind == "receive" and round_num not in expected.rounds:
            store.commit_round(round_num, layout, keep_rounds=keep[0])
            expected.put(round_num, model, keep[0])
    elif kind == "prune":
        store.prune(rest[0])
        expected.prune(rest[0])
    else:
        store.close()
        return ChunkStore.open(store.path)
    return store


def sent(sender, model, split):
    sender.put_round(1, model, split=split, replace=True)
    return sender.layout(1)


def check(store, expected):
    assert [row.round_num for row in store.rounds()] == sorted(expected.rounds)
    for round_num, model in expected.rounds.items():
        assert same_tensors(store.get_round(round_num), model)
    with store.reader() as reader:
        assert reader.verify().findings == ()
    store.settle()
    (num_orphans,) = store._conn.execute(
        """SELECT count(*) FROM chunk_data d
           WHERE chunk_hash NOT IN (SELECT chunk_hash FROM chunk_metadata)
           AND chunk_hash NOT IN (SELECT chunk_hash FROM staged_chunks)"""
    ).fetchone()
    assert num_orphans == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=8))
def test_any_history_leaves_the_rounds_it_should_and_nothing_else(history):
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), history)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=1000, deadline=None)
@given(st.lists(steps, max_size=15))
def test_any_long_history_leaves_the_rounds_it_should_and_nothing_else(history):
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), history)


def test_chunks_that_change_places_survive_the_round_they_came_from(tmp_path):
    values = torch.arange(64.0)
    with ChunkStore.open(store_path(tmp_path)) as store:
        for round_num in range(1, 9):
            model = {"w": values.roll(4 * round_num), "new": torch.rand(4)}
            store.put_round(round_num, model, keep_rounds=1, split=TensorSplit(16))

            assert same_tensors(store.get_round(round_num), model)
