"""Load the screen without what it never uses."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_ssl() -> Iterator[None]:
    """Have asyncio do without TLS, if it is first imported inside.

    It takes `ssl` where it finds it, which is 4 MB and 4 ms of a dashboard that
    opens no connection. Afterwards `ssl` can be imported as ever.
    """
    if "ssl" in sys.modules:
        yield
        return
    sys.modules["ssl"] = None  # type: ignore[assignment] # so it says "not found"
    try:
        yield
    finally:
        del sys.modules["ssl"]
