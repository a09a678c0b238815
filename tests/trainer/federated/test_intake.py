"""What has arrived whole is looked at before it may count."""

import pytest
import torch

from agent.rundir.errors import RunDirError
from trainer.federated.intake import examine
from trainer.federated.messages import Report, UpdateOffer
from trainer.federated.transfer import Parcel, pack


def arrived(tensors, num_examples=3):
    packed = pack(tensors)
    parcel = Parcel(packed.layout)
    parcel.reuse(packed.payloads)
    offer = UpdateOffer(
        round_num=1,
        attempt=1,
        base_digest="d",
        layout=packed.layout.to_json(),
        report=Report(num_examples=num_examples),
    )
    return offer, parcel


def test_a_sound_update_is_weighted_by_its_examples():
    offer, parcel = arrived({"w": torch.tensor([1.0, 2.0])})

    given = examine("client-1", offer, parcel)

    assert (given.update.client, given.update.num_examples) == ("client-1", 3)
    assert torch.equal(given.update.tensors["w"], torch.tensor([1.0, 2.0]))
    assert given.arrived(opened_ns=0, transfer_ns=7).contribution.transfer_ns == 7


@pytest.mark.parametrize(
    ("value", "num_examples", "told"),
    [(float("nan"), 3, "`w` is not finite"), (1.0, 0, "it was made of no example")],
)
def test_what_would_spoil_the_average_is_refused(value, num_examples, told):
    offer, parcel = arrived({"w": torch.tensor([1.0, value])}, num_examples)

    with pytest.raises(RunDirError, match=told):
        examine("client-1", offer, parcel)
