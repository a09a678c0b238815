"""The screen's process leaves out what it never uses, and nothing is broken by it."""

import subprocess
import sys

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
