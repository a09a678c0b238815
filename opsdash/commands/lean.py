"""Load a command without what it never uses, and without looking for what is unused."""

import gc
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


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import without the garbage collector, which finds nothing in what stays.

    Its passes over 500 modules take a tenth of the time to load them, 20 ms.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
