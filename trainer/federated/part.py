"""What a client needs to take part in one attempt of a run."""

from dataclasses import dataclass

import msgspec

from agent.rundir.chunks.layout import RoundLayout
from trainer.federated.client_events import ClientEvents
from trainer.federated.messages import (
    PROTOCOL,
    UNREADABLE,
    BadMessageError,
    Welcome,
)
from trainer.federated.problem import Settings
from trainer.federated.workbench import Workbench


@dataclass(frozen=True)
class Part:
    """A client's part in one attempt of a run."""

    welcome: Welcome
    workbench: Workbench
    layout: RoundLayout
    """Of what is averaged: names, dtypes and shapes have to be these."""
    events: ClientEvents

    def is_of(self, welcome: Welcome) -> bool:
        """Whether the server means the same attempt."""
        mine = self.welcome
        return (mine.run_id, mine.attempt) == (welcome.run_id, welcome.attempt)

    def is_same_run(self, welcome: Welcome) -> bool:
        """Whether model, optimizer and store can go on."""
        mine = self.welcome
        is_same = bytes(mine.settings) == bytes(welcome.settings)
        return mine.run_id == welcome.run_id and is_same


def read_settings(welcome: Welcome) -> Settings:
    """Return what the server wants trained.

    Raises:
        BadMessageError: it speaks another protocol, or no settings.
    """
    if welcome.protocol != PROTOCOL:
        raise BadMessageError(
            f"the server speaks protocol {welcome.protocol}, this client {PROTOCOL}"
        )
    try:
        return msgspec.msgpack.decode(welcome.settings, type=Settings)
    except UNREADABLE as error:
        raise BadMessageError(f"the server's settings: {error}") from error
