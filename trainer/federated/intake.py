"""Look at an update that has arrived whole, before it may count."""

import time
from dataclasses import dataclass, replace

from agent.rundir.errors import RunDirError
from trainer.federated.aggregate import Pull, Update, first_nonfinite
from trainer.federated.ledger import UpdateAccount
from trainer.federated.messages import Report, UpdateOffer
from trainer.federated.transfer import Parcel


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What the server knows of one member's update."""

    report: Report
    waited_ns: int
    """From the round's opening until the update counted."""
    transfer_ns: int
    """From its description to its last chunk."""
    num_bytes: int
    """That travelled."""

    def account(
        self, client: str, pull: Pull, rounds_missed: int | None
    ) -> UpdateAccount:
        """Return what is told of it; what nobody else accounts for was queueing."""
        report = self.report
        transfer_ns = self.transfer_ns + report.fetch_ns
        queue_ns = self.waited_ns - report.compute_ns - transfer_ns
        return UpdateAccount(
            client=client,
            num_examples=report.num_examples,
            loss=report.loss,
            queue_ns=max(0, queue_ns),
            compute_ns=report.compute_ns,
            transfer_ns=transfer_ns,
            num_bytes=self.num_bytes,
            update_norm=pull.norm,
            cosine=pull.cosine,
            accuracy_frac=report.accuracy_frac,
            rounds_missed=rounds_missed,
        )


@dataclass(frozen=True)
class Given:
    """An update that may count, and what is told of it."""

    update: Update
    contribution: Contribution

    def arrived(self, *, opened_ns: int, transfer_ns: int) -> "Given":
        """Return it with the times of a round that was opened then (monotonic)."""
        times = replace(
            self.contribution,
            waited_ns=time.monotonic_ns() - opened_ns,
            transfer_ns=transfer_ns,
        )
        return replace(self, contribution=times)


def examine(client: str, offer: UpdateOffer, parcel: Parcel) -> Given:
    """Return the update that a whole parcel holds. Reads every number.

    Raises:
        RunDirError: it must not enter an average.
    """
    tensors = parcel.unpack()
    bad = first_nonfinite(tensors)
    if bad is not None:
        raise RunDirError(f"`{bad}` is not finite")
    num_examples = offer.report.num_examples
    if not num_examples:
        raise RunDirError("it was made of no example")
    return Given(
        Update(client=client, tensors=tensors, num_examples=num_examples),
        Contribution(
            report=offer.report,
            waited_ns=0,
            transfer_ns=0,
            num_bytes=parcel.num_received_bytes,
        ),
    )
