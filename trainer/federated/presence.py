"""Which clients have a session, and since when there are enough of them.

Part of the machine of rounds: no I/O, no clock. Times are nanoseconds of the
server's monotonic clock.
"""


class Presence:
    """The sessions of a federation's clients, at most one for each."""

    def __init__(self, min_clients: int, now_ns: int) -> None:
        """Begin with nobody, which is too few.

        Args:
            min_clients: With so many there are enough.
            now_ns: Since when too few are there.
        """
        self._min_clients = min_clients
        self._sessions: dict[str, str] = {}
        self._lost_ns: dict[str, int] = {}
        self.short_since_ns: int | None = now_ns
        """Since when there have been too few clients; None: there are enough."""
        self.enough_since_ns: int | None = None
        """Since when there have been enough; None: there are too few."""

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def clients(self) -> frozenset[str]:
        """Clients with a session."""
        return frozenset(self._sessions)

    def is_from(self, client: str, session: str) -> bool:
        """Whether this is the client's session, and not one that is over."""
        return self._sessions.get(client) == session

    def join(self, client: str, session: str, now_ns: int) -> None:
        """A client opened a session; one that it had before is over."""
        self._sessions[client] = session
        self._lost_ns.pop(client, None)
        self._count(now_ns)

    def lose(self, client: str, session: str, now_ns: int) -> None:
        """A session ended; one that had been replaced changes nothing."""
        if self.is_from(client, session):
            del self._sessions[client]
            self._lost_ns[client] = now_ns
            self._count(now_ns)

    def is_given_up(self, client: str, grace_ns: int, now_ns: int) -> bool:
        """Whether a client has been without a session for longer than the grace."""
        is_here = client in self._sessions
        return not is_here and now_ns >= self._lost_ns.get(client, now_ns) + grace_ns

    def lost_ns(self, client: str) -> int:
        """Return when a client lost its session."""
        return self._lost_ns[client]

    def begin_counting(self, now_ns: int) -> None:
        """Count from now on for how long there have been enough, or too few."""
        self.short_since_ns = self.enough_since_ns = None
        self._count(now_ns)

    def _count(self, now_ns: int) -> None:
        if len(self._sessions) >= self._min_clients:
            self.short_since_ns = None
            if self.enough_since_ns is None:
                self.enough_since_ns = now_ns
        else:
            self.enough_since_ns = None
            if self.short_since_ns is None:
                self.short_since_ns = now_ns
