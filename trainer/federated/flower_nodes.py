"""Which of Flower's nodes are there, and which client each of them is.

Flower knows nodes by number, and a node that was started again gets another
one; a client keeps its key. Whoever is new is asked for its key first. A
client has one node at a time: a newer one takes the older one's place.
"""

from collections.abc import Iterable

from trainer.federated.terms import is_client_key


class FlowerNodes:
    """Bookkeeping only: the caller asks, and tells what follows."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._clients: dict[int, str] = {}
        """By node, of those that are there and have told."""
        self._asked: set[int] = set()
        self._names: dict[int, str] = {}
        """Of all nodes that ever told."""
        self._known: set[str] = set()

    def node_of(self, client: str) -> int | None:
        """Return a client's node; None: it has none."""
        found = (node for node, key in self._clients.items() if key == client)
        return next(found, None)

    def name_of(self, node: int) -> str:
        """Return what to call a node: its client's key, as far as it has told."""
        return self._names.get(node, f"node-{node}")

    def is_here(self, node: int) -> bool:
        """Whether a node is there and stands for its client."""
        return node in self._clients

    def look(self, there: Iterable[int]) -> tuple[list[int], list[int]]:
        """Compare with what Flower says; return nodes that went, and new ones."""
        present = set(there)
        gone = sorted(self._clients.keys() - present)
        new = sorted(present - self._asked)
        self._asked = present
        return gone, new

    def introduce(self, node: int, client: str) -> int | None:
        """A node told whose it is; return the client's node that it replaces.

        Raises:
            ValueError: no client may be called this.
        """
        if not is_client_key(client):
            raise ValueError(f"`{client!a}` cannot name a client")
        older = self.node_of(client)
        self._names[node] = client
        if older is not None:
            del self._clients[older]
        self._clients[node] = client
        return older

    def leave(self, node: int) -> None:
        """A node does not stand for its client any more."""
        self._clients.pop(node, None)

    def note_return(self, client: str) -> bool:
        """Say whether this attempt has seen the client before; it has from now on."""
        is_return = client in self._known
        self._known.add(client)
        return is_return
