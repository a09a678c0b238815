"""Keep the memory of a dashboard that runs for weeks near what it holds.

Histories are arrays that grow, are thinned and grow again. glibc puts large
blocks on its heap once it has seen a few freed, where they leave holes that
are never given back: 10 MB after a million points. Elsewhere this does nothing.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`. Source: malloc.h of glibc."""
_LARGE_BYTES = 64 << 10


def map_large_blocks() -> bool:
    """Have large blocks mapped one by one, and freed at once; False: not here."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    wanted = (
        (_M_MMAP_THRESHOLD, _LARGE_BYTES),
        (_M_TRIM_THRESHOLD, _LARGE_BYTES),
        (_M_ARENA_MAX, 1),
    )
    return all(mallopt(parameter, value) == 1 for parameter, value in wanted)
