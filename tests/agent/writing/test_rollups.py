import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from agent.rundir.events import StepDone, encode
from agent.rundir.rollup import Block, read_blocks, roll_up
from agent.rundir.windows import WINDOW_BYTES
from agent.writing import rollups
from agent.writing.rollups import RollupWriter

ROOT = Path(__file__).parent.parent.parent.parent
CLOCKS = {"time_ns": 1, "mono_ns": 1, "node": "rank-0", "rank": 0}


def log(num_bytes: int, first: int = 0) -> bytes:
    """Lines of steps, a little more than so many bytes."""
    lines, size, number = [], 0, first
    while size < num_bytes:
        event = StepDone(seq=number, step=number, loss=number % 97, **CLOCKS)
        lines.append(encode(event))
        size += len(lines[-1])
        number += 1
    return b"".join(lines)


def blocks(folder: Path) -> list[Block]:
    with (folder / "x.rollup.jsonl").open("rb") as file:
        return list(read_blocks(file))


def covered(found: list[Block]) -> list[tuple[int, int, int]]:
    return [(b.head.segment, b.head.begin, b.head.end) for b in found]


def rolled_up_at_once(folder: Path, data: bytes) -> bytes:
    folder.mkdir()
    (folder / "x.jsonl").write_bytes(data)
    RollupWriter(folder, "x").advance(1)
    return (folder / "x.rollup.jsonl").read_bytes()


def test_whole_windows_are_rolled_up_and_the_rest_waits(tmp_path):
    data = log(2 * WINDOW_BYTES + 1000)
    (tmp_path / "x.jsonl").write_bytes(data)

    RollupWriter(tmp_path, "x").advance(1)

    one, two = covered(blocks(tmp_path))
    assert (one[:2], two[1]) == ((1, 0), one[2])
    assert len(data) - two[2] < 2000
    assert all(data[end - 1 : end] == b"\n" for _, _, end in (one, two))
    size = (tmp_path / "x.rollup.jsonl").stat().st_size
    assert size < 0.01 * len(data)


def test_a_log_that_grows_is_followed(tmp_path):
    writer = RollupWriter(tmp_path, "x")
    data = log(3 * WINDOW_BYTES)
    for end in range(0, len(data), 100_000):
        (tmp_path / "x.jsonl").write_bytes(data[:end])
        writer.advance(1)

    found = covered(blocks(tmp_path))

    assert [begin for _, begin, _ in found] == [0, *(end for *_, end in found[:-1])]
    assert len(found) == 2


def test_a_segment_that_is_finished_is_rolled_up_to_its_end(tmp_path):
    first, second = log(WINDOW_BYTES + 5000) + b'{"torn', log(1000)
    (tmp_path / "x.jsonl").write_bytes(first)
    (tmp_path / "x.s0002.jsonl").write_bytes(second)
    (tmp_path / "x.s0004.jsonl").write_bytes(b"")

    RollupWriter(tmp_path, "x").advance(4)

    found = blocks(tmp_path)
    assert covered(found)[1:] == [
        (1, found[0].head.end, len(first)),
        (2, 0, len(second)),
    ]
    assert found[1].head.num_bad == 1


@pytest.mark.parametrize("tear", [0, 1, 300, 600])
def test_who_comes_back_goes_on_after_the_last_whole_block(tmp_path, tear):
    data = log(5 * WINDOW_BYTES)
    whole = rolled_up_at_once(tmp_path / "whole", data)
    (tmp_path / "x.jsonl").write_bytes(data[: 3 * WINDOW_BYTES])
    RollupWriter(tmp_path, "x").advance(1)
    path = tmp_path / "x.rollup.jsonl"
    os.truncate(path, path.stat().st_size - tear)
    (tmp_path / "x.jsonl").write_bytes(data)

    RollupWriter(tmp_path, "x").advance(1)

    assert path.read_bytes() == whole


def test_a_line_longer_than_a_window_is_passed_over(tmp_path):
    data = b"x" * (2 * WINDOW_BYTES) + b"\n" + log(2 * WINDOW_BYTES)
    (tmp_path / "x.jsonl").write_bytes(data)

    RollupWriter(tmp_path, "x").advance(1)

    found = covered(blocks(tmp_path))
    assert [begin for _, begin, _ in found] == [0, *(end for *_, end in found[:-1])]
    assert len(data) - found[-1][2] < WINDOW_BYTES


def test_a_long_rollup_is_halved_and_still_covers_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(rollups, "MAX_BLOCKS", 8)
    writer = RollupWriter(tmp_path, "x")
    data = log(4 * WINDOW_BYTES)
    for segment in range(1, 8):
        name = "x.jsonl" if segment == 1 else f"x.s{segment:04d}.jsonl"
        (tmp_path / name).write_bytes(data)
        writer.advance(segment)

    found = blocks(tmp_path)

    assert len(found) <= 8 + 1
    assert sum(b.head.counts["step_done"] for b in found) >= 6 * data.count(b"\n")
    by_segment: dict[int, list] = {}
    for segment, begin, end in covered(found):
        assert begin == by_segment.setdefault(segment, [0])[-1]
        by_segment[segment].append(end)
    assert [by_segment[segment][-1] for segment in range(1, 7)] == [len(data)] * 6
    assert not list(tmp_path.glob(".*partial"))


def test_blocks_of_two_segments_are_never_one():
    one = roll_up(log(500), segment=1, begin=0)
    two = roll_up(log(500), segment=2, begin=one.head.end)

    assert rollups._merge_pairs([one, two]) == [one, two]


def test_a_disk_that_is_full_leaves_whole_blocks(tmp_path):
    data = log(4 * WINDOW_BYTES)
    (tmp_path / "x.jsonl").write_bytes(data)
    script = f"""
        import resource
        from pathlib import Path
        from agent.writing.rollups import RollupWriter
        writer = RollupWriter(Path({str(tmp_path)!r}), "x")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            writer.advance(1)
        except OSError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        writer.advance(1)
    """

    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )

    assert "could not be written whole" in result.stdout
    whole = rolled_up_at_once(tmp_path / "whole", data)
    assert (tmp_path / "x.rollup.jsonl").read_bytes() == whole
