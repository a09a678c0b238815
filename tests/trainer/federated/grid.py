"""A grid like Flower's in one process: apps run when answers are looked for."""

import itertools
from dataclasses import dataclass, field
from types import SimpleNamespace

import msgspec
from msgspec.structs import replace

from agent.rundir.errors import RunDirError
from agent.session import Agent
from agent.start import begin_run
from trainer.federated.config import defining
from trainer.federated.flower import introduce, train
from trainer.federated.flower_messages import Answer, decode
from trainer.federated.flower_rounds import FlowerRounds
from trainer.federated.global_model import GlobalModel
from trainer.federated.problem import Settings, server_data
from trainer.federated.server_events import ServerEvents

APPS = {"query": introduce, "train": train}


class Message:
    """As Flower's, as far as it is used here."""

    _ids = itertools.count(1)

    def __init__(
        self, content, *, dst_node_id=0, message_type="", reply_to=None, error=None
    ):
        self.content = content
        self.error = error
        self.metadata = SimpleNamespace(
            message_id=str(next(self._ids)),
            dst_node_id=dst_node_id,
            message_type=message_type,
            reply_to_message_id=reply_to.metadata.message_id if reply_to else "",
        )

    def has_error(self):
        return self.error is not None


def array(dtype, _shape, _kind, data):
    return SimpleNamespace(dtype=dtype, data=data)


RECORDS = SimpleNamespace(
    Message=Message, RecordDict=dict, ConfigRecord=dict, ArrayRecord=dict, Array=array
)
"""What stands for the module `flwr.app`."""


def failed(message, why):
    return Message({}, reply_to=message, error=SimpleNamespace(reason=why))


@dataclass
class Node:
    """A machine with a client on it."""

    key: str
    is_gone: bool = False
    """Whether it takes no message any more, though it is still listed."""
    is_silent: bool = False
    """Whether its answers are held back."""
    error: str | None = None
    """What its app fails with; None: it works."""
    alias: str | None = None
    """Whom it says to be in its updates; None: its key."""
    is_without_chunks: bool = False
    """Whether its updates hold nothing beside what it says."""
    asked: list[str] = field(default_factory=list)
    """Kinds of messages that it was sent."""


class Grid:
    """Nodes by number; `on_look` is called before each look at who is there."""

    def __init__(self, run_dir, keys):
        self.nodes = {100 + n: Node(key) for n, key in enumerate(keys)}
        self.on_look = lambda: None
        self._run_dir = str(run_dir)
        self._messages = {}

    def get_node_ids(self):
        self.on_look()
        return list(self.nodes)

    def push_messages(self, messages):
        return [self._push(message) for message in messages]

    def _push(self, message):
        node = self.nodes[message.metadata.dst_node_id]
        if node.is_gone:
            return ""
        node.asked.append(message.metadata.message_type)
        self._messages[message.metadata.message_id] = message, node
        return message.metadata.message_id

    def pull_messages(self, message_ids):
        for message_id in message_ids:
            found = self._messages.get(message_id)
            if found is not None and not found[1].is_silent:
                del self._messages[message_id]
                yield self._answer(*found)

    def _answer(self, message, node):
        context = SimpleNamespace(
            node_config={"key": node.key}, run_config={"run-dir": self._run_dir}
        )
        kind = message.metadata.message_type
        if node.error is not None and kind == "train":
            return failed(message, node.error)
        try:
            reply = APPS[kind](message, context)
        except RunDirError as error:
            return failed(message, str(error))
        if node.is_without_chunks and kind == "train":
            del reply.content["chunks"]
        if node.alias is not None and kind == "train":
            answer = replace(decode(reply, Answer), client=node.alias)
            reply.content["message"]["message"] = msgspec.msgpack.encode(answer)
        return reply


class Served:
    """One attempt of a server on a grid."""

    def __init__(self, run_dir, config, grid):
        self._start = begin_run(run_dir, kind="federated", config=defining(config))
        self._start.record()
        data = server_data(config)
        self._model = GlobalModel(
            self._start.run.chunk_store("server"),
            run_id=self._start.identity.run_id,
            config=config,
            data=data,
        )
        self._agent = Agent.attach(
            run_dir,
            kind="federated",
            rank=-1,
            attempt=self._start.attempt,
            node="server",
            heartbeat_s=0.05,
        )
        told = Settings(config=config, shape=data.shape)
        self._rounds = FlowerRounds(
            grid,
            told,
            self._start,
            self._model,
            ServerEvents(self._agent),
            look_every_s=0.01,
        )

    def run(self):
        """Run to the end; return how it ended, or raise."""
        try:
            with self._agent:
                reason = self._rounds.run()
                self._agent.ended(reason)
                return reason
        finally:
            self._model.close()
            self._start.release()
