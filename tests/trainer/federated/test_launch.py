"""What a launcher leaves behind, however it ends: nothing."""

import os
from pathlib import Path

from tests.trainer.federated.bench import toy
from trainer.federated.launch import _tokens
from trainer.federated.security import ServerSecurity, read_tokens


def test_tokens_are_in_a_file_that_has_no_name_and_can_be_read_again():
    with _tokens(toy()) as (tokens_fd, tokens):
        readings = [read_tokens(Path(f"/dev/fd/{tokens_fd}")) for _ in range(2)]

        assert os.fstat(tokens_fd).st_nlink == 0
    assert sorted(tokens) == ["client-1", "client-2", "client-3"]
    for digests in readings:
        security = ServerSecurity(digests)
        assert all(security.admits(key, token) for key, token in tokens.items())
        assert not security.admits("client-1", tokens["client-2"])
