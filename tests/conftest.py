"""What every test gets: full counts only when asked for, one thread per process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config, items):
    """Leave the full counts to `make soak`."""
    if config.getoption("markexpr"):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=soak)
    items[:] = [item for item in items if item not in set(soak)]
