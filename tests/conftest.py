"""What every test gets: full counts only when asked for, one thread per process."""

import os
import signal

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of processes are started, each of which would compile all of it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A shell's background job ignores it, and so would every process of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test asserts how long something took, Hypothesis neither.
settings.register_profile("opsdash", deadline=None)
settings.load_profile("opsdash")


def pytest_collection_modifyitems(config, items):
    """Leave the full counts to `make soak`."""
    if "soak" in config.getoption("markexpr"):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=soak)
    items[:] = [item for item in items if item not in set(soak)]
