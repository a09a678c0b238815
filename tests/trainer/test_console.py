"""What the trainer says, and to whom."""

import os
import subprocess
import sys

SAY = "from trainer.console import say\nfor _ in range(3): say('a line')"


def test_a_reader_that_left_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-c", SAY], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, b"")
