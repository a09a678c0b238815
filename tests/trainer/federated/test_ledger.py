"""What a store says of a round is all that is told of it, and nothing else."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rundir.errors import UnreadableFileError
from agent.rundir.events import ClientUpdate, Event, RoundCommitted
from trainer.federated.ledger import (
    Account,
    Record,
    UpdateAccount,
    encode_record,
    read_record,
)

ACKED = encode_record(Record(run_id="run", round_num=3, acked={"client-1": 3}))


def types(struct):
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


@pytest.mark.parametrize(
    ("kept", "told"), [(Account, RoundCommitted), (UpdateAccount, ClientUpdate)]
)
def test_what_is_kept_until_it_is_told_has_the_fields_of_the_event(kept, told):
    of_every_event = types(Event)

    own = {n: of for n, of in types(told).items() if n not in of_every_event}

    assert types(kept) == own


class Store:
    """A store that holds nothing but a record."""

    path = "server_chunks.db"

    def __init__(self, record):
        self._record = record

    def get_state(self, key):
        return self._record


@given(st.integers(0, len(ACKED) - 1), st.integers(0, 255))
def test_a_record_that_has_rotted_is_read_or_refused(place, byte):
    rotted = bytearray(ACKED)
    rotted[place] = byte

    try:
        found = read_record(Store(bytes(rotted)), "run")
    except UnreadableFileError:
        return

    assert isinstance(found, Record)


def test_a_record_that_is_no_text_is_refused_by_name():
    rotted = ACKED.replace(b"client-1", b"client-\xff")

    with pytest.raises(UnreadableFileError, match="has no readable record"):
        read_record(Store(rotted), "run")
