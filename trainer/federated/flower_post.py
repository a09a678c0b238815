"""What was sent over Flower's grid, and the answers as they come.

Flower's own `send_and_receive` looks every three seconds and measures its limit
on the wall clock; here the caller decides when to look, and how long to wait.
"""

from dataclasses import dataclass
from typing import Any

from agent.rundir.errors import RunDirError
from trainer.federated.flower_messages import flower


@dataclass(frozen=True)
class Sent:
    """A message that is not answered yet."""

    node: int
    round_num: int
    """That the node was asked to train; 0: it was asked whose it is."""


class FlowerPost:
    """Sends to nodes and collects what they answer."""

    def __init__(self, grid: Any) -> None:  # noqa: ANN401 - Flower's
        """Begin with nothing sent."""
        self._grid = grid
        self._sent: dict[str, Sent] = {}
        """By Flower's id of the message."""

    def nodes(self) -> list[int]:
        """Return the nodes that Flower sees now."""
        return list(self._grid.get_node_ids())

    def send(self, sent: Sent, kind: str, content: Any) -> bool:  # noqa: ANN401 - Flower's
        """Send a node a message of a kind of Flower's; False: the node is gone.

        Raises:
            RunDirError: Flower takes no message of this size.
        """
        message = flower().Message(content, dst_node_id=sent.node, message_type=kind)
        message_ids = list(self._grid.push_messages([message]))
        if not message_ids:
            raise RunDirError(
                f"the message to node {sent.node} is too large for Flower"
            )
        (message_id,) = message_ids
        if not message_id:
            return False
        self._sent[message_id] = sent
        return True

    def answers(self) -> list[tuple[Sent, Any]]:
        """Return what has come since the last look, with what it answers."""
        if not self._sent:
            return []
        replies = list(self._grid.pull_messages(list(self._sent)))
        found = ((self._sent.pop(_answered(reply), None), reply) for reply in replies)
        return [(sent, reply) for sent, reply in found if sent is not None]

    def forget_before(self, round_num: int) -> None:
        """Look no further for answers about earlier rounds than this."""
        self._sent = {
            message_id: sent
            for message_id, sent in self._sent.items()
            if sent.round_num == 0 or sent.round_num >= round_num
        }


def _answered(reply: Any) -> str:  # noqa: ANN401 - Flower's
    return str(reply.metadata.reply_to_message_id)
