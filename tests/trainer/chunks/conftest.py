"""A store of one node, open for writing, unless a test file makes its own."""

import pytest

from tests.trainer.chunks.store_faults import store_path
from trainer.chunks.store import ChunkStore


@pytest.fixture
def path(tmp_path):
    return store_path(tmp_path)


@pytest.fixture
def store(path):
    with ChunkStore.open(path) as opened:
        yield opened
