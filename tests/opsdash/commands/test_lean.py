"""The screen's process leaves out what it never uses, and nothing is broken by it."""

import gc
import subprocess
import sys

import pytest

from opsdash.commands.lean import without_collecting

LOAD = """
import sys
from opsdash.commands.lean import without_ssl
with without_ssl():
    import opsdash.app
assert "ssl" not in sys.modules, "loaded all the same"
import asyncio, ssl
asyncio.run(asyncio.sleep(0))
assert ssl.create_default_context()
"""
KEEP = """
import ssl, sys
from opsdash.commands.lean import without_ssl
with without_ssl():
    assert sys.modules["ssl"] is ssl
assert sys.modules["ssl"] is ssl
"""


def ends_well(program):
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_screen_is_loaded_without_tls_and_tls_can_still_be_had():
    assert ends_well(LOAD)


def test_tls_that_is_there_already_stays():
    assert ends_well(KEEP)


def test_loading_is_not_interrupted_by_passes_and_they_are_made_again_afterwards():
    seen = []
    with pytest.raises(ZeroDivisionError), without_collecting():
        seen.append(gc.isenabled() / 0)
    with without_collecting():
        seen.append(gc.isenabled())
    assert [*seen, gc.isenabled()] == [False, True]


def test_somebody_who_collects_by_hand_still_does():
    gc.disable()
    try:
        with without_collecting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_panes_that_nobody_looked_at_are_not_loaded_with_the_screen():
    program = """
import sys
import opsdash.app
from opsdash.screens.panes import PANES
modules = [f"opsdash.screens.{pane.title}" for pane in PANES]
loaded = [name for name in modules if name in sys.modules]
assert not loaded, loaded
"""
    assert ends_well(program)
