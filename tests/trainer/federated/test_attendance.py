"""Who is there, and what is kept of those who are not."""

import pytest
import torch

from agent.rundir.chunks.payload import Payload
from tests.trainer.federated.bench import make_global, toy
from trainer.federated.attendance import Attendance
from trainer.federated.messages import Model, Welcome
from trainer.federated.transfer import Leftovers


class Client:
    """A session that notes what it is told."""

    def __init__(self, key, leftovers=None):
        self.key = key
        self.leftovers = leftovers or Leftovers()
        self.inherited = None
        self.told = []

    def inherit(self, leftovers):
        self.inherited = leftovers

    def send(self, message):
        self.told.append(message)


@pytest.fixture
def attendance(tmp_path):
    model = make_global(tmp_path / "server" / "server_chunks.db", toy())
    yield Attendance(Welcome(protocol=1, run_id="r", attempt=1, settings=b""), model)
    model.close()


def some_chunk():
    data = bytes(torch.ones(4).numpy().data)
    return Leftovers(1, {"digest": Payload("digest", "float32", data)})


def lose(attendance, client):
    attendance.greet(client)
    attendance.keep_leftovers(client)
    attendance.forget(client)


async def test_what_a_broken_stream_had_received_is_the_next_ones(attendance):
    lose(attendance, Client("client-1", some_chunk()))
    back, other = Client("client-1"), Client("client-2")

    attendance.greet(back)
    attendance.greet(other)

    assert back.inherited == some_chunk()
    assert other.inherited == Leftovers()


async def test_it_is_dropped_once_another_model_is_told(attendance):
    """A client that never comes back must not hold a model's memory for good."""
    lose(attendance, Client("client-1", some_chunk()))
    here, back = Client("client-2"), Client("client-1")
    attendance.greet(here)

    attendance.tell_model()
    attendance.greet(back)

    assert back.inherited == Leftovers()
    assert isinstance(here.told[-1], Model)


async def test_one_client_that_comes_too_often_keeps_nobody_else_out(attendance):
    let_in = [attendance.lets_in("mallory") for _ in range(5_000)]

    assert 200 <= sum(let_in) < 300
    assert attendance.lets_in("client-1")


async def test_any_number_of_names_lets_in_no_more_than_a_crowd(attendance):
    let_in = [attendance.lets_in(f"mallory-{number}") for number in range(5_000)]

    assert 1_000 <= sum(let_in) < 2_000
