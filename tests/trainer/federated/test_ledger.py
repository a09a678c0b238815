"""What a store says of a round is all that is told of it, and nothing else."""

import msgspec
import pytest

from agent.rundir.events import ClientUpdate, Event, RoundCommitted
from trainer.federated.ledger import Account, UpdateAccount


def types(struct):
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


@pytest.mark.parametrize(
    ("kept", "told"), [(Account, RoundCommitted), (UpdateAccount, ClientUpdate)]
)
def test_what_is_kept_until_it_is_told_has_the_fields_of_the_event(kept, told):
    of_every_event = types(Event)

    own = {n: of for n, of in types(told).items() if n not in of_every_event}

    assert types(kept) == own
