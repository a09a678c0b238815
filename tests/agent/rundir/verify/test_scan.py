"""Checksums of parts of a file, however it is cut into ranges and blocks."""

import hashlib
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.rundir.verify import scan as module
from agent.rundir.verify.scan import Extent, scan
from agent.rundir.verify.source import EndsEarlyError, open_source
from agent.rundir.verify.watch import Watch


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_RANGE_BYTES", 64)
    monkeypatch.setattr(module, "_BLOCK_BYTES", 16)
    monkeypatch.setattr(module, "_HASH_BLOCK_BYTES", 24)


@st.composite
def files_with_extents(draw):
    data = draw(st.binary(max_size=600))
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=12, unique=True))
    cuts = sorted(cuts)[: len(cuts) // 2 * 2]
    return data, [Extent(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=True)]


@given(
    files_with_extents(),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([None, hashlib.sha256]),
)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_extent_has_its_checksum(tmp_path, case, num_threads, kind):
    data, extents = case
    path = tmp_path / "file"
    path.write_bytes(data)
    seen = []
    watch = Watch(total_bytes=len(data), progress=lambda done, _: seen.append(done))
    hasher = kind() if kind else None

    with open_source(path, "file") as source:
        found = scan(source, extents, hasher, num_threads=num_threads, watch=watch)

    assert found == [zlib.crc32(data[start:stop]) for start, stop in extents]
    assert sorted(seen) == seen
    assert not data or seen[-1] == len(data)
    if hasher:
        assert hasher.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("kind", [None, hashlib.sha256])
def test_a_file_that_became_shorter_ends_the_scan(tmp_path, num_threads, kind):
    path = tmp_path / "file"
    path.write_bytes(bytes(500))

    with open_source(path, "file") as source:
        path.write_bytes(bytes(300))
        with pytest.raises(EndsEarlyError) as caught:
            scan(
                source,
                [],
                kind() if kind else None,
                num_threads=num_threads,
                watch=Watch(),
            )

    assert caught.value.offset == 300
