"""A global model arrives in chunks, and never twice."""

import asyncio

import pytest
import torch

from trainer.federated.arrival import Arrival
from trainer.federated.messages import BadMessageError, Chunk, Model
from trainer.federated.transfer import pack


def told(tensors, round_num=1):
    packed = pack(tensors)
    layout = packed.layout.to_json()
    return packed, Model(round_num=round_num, digest=packed.digest, layout=layout)


def some(first):
    return {"a": torch.full((3,), first), "b": torch.ones(4), "c": torch.zeros(5)}


def deliver(arrival, packed, digest):
    payload = packed.payloads[digest]
    return arrival.take(Chunk(digest, payload.dtype, bytes(payload.data)))


async def test_a_transfer_that_broke_off_goes_on_where_it_stopped():
    packed, model = told(some(1.0))
    arrival = Arrival()
    first, *others = arrival.expect(model, packed.layout)
    deliver(arrival, packed, first)

    again = arrival.expect(model, packed.layout)
    ends = [deliver(arrival, packed, digest) for digest in again]
    await arrival.unpack()

    assert again == tuple(others)
    assert ends == [False, True]
    assert arrival.is_whole(model.digest)
    assert torch.equal(arrival.whole.tensors["a"], torch.ones(3))


async def test_a_model_that_was_whole_when_the_connection_broke_is_not_fetched_again():
    packed, model = told(some(1.0))
    arrival = Arrival()
    for digest in arrival.expect(model, packed.layout):
        deliver(arrival, packed, digest)
    unpacking = asyncio.create_task(arrival.unpack())
    await asyncio.sleep(0)
    unpacking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unpacking

    lacking = arrival.expect(model, packed.layout)
    await arrival.unpack()

    assert lacking == ()
    assert arrival.is_whole(model.digest)


async def test_of_the_next_model_only_what_changed_is_asked_for():
    before, model = told(some(1.0))
    after, following = told(some(2.0), round_num=2)
    arrival = Arrival()
    for digest in arrival.expect(model, before.layout):
        deliver(arrival, before, digest)
    await arrival.unpack()

    lacking = arrival.expect(following, before.layout)

    assert len(lacking) == 1
    assert lacking[0] in after.payloads.keys() - before.payloads.keys()


def test_a_layout_under_a_foreign_digest_is_refused():
    packed, _ = told(some(1.0))
    model = Model(round_num=1, digest="d", layout=packed.layout.to_json())

    with pytest.raises(BadMessageError, match="does not have its digest"):
        Arrival().expect(model, packed.layout)


def test_chunks_that_nobody_expects_are_ignored():
    packed, model = told(some(1.0))
    arrival = Arrival()
    lacking = arrival.expect(model, packed.layout)
    arrival.give_up()

    assert not any(deliver(arrival, packed, digest) for digest in lacking)
    assert not arrival.is_whole(model.digest)
