"""What a launcher leaves behind, however it ends; and how it is started again."""

import os
import sys
from pathlib import Path

from tests.trainer.federated.bench import toy
from trainer.federated.launch import _Launch, _parser, _tokens
from trainer.federated.security import ServerSecurity, read_tokens
from trainer.federated.settings import read_config


def test_tokens_are_in_a_file_that_has_no_name_and_can_be_read_again():
    with _tokens(toy()) as (tokens_fd, tokens):
        readings = [read_tokens(Path(f"/dev/fd/{tokens_fd}")) for _ in range(2)]

        assert os.fstat(tokens_fd).st_nlink == 0
    assert sorted(tokens) == ["client-1", "client-2", "client-3"]
    for digests in readings:
        security = ServerSecurity(digests)
        assert all(security.admits(key, token) for key, token in tokens.items())
        assert not security.admits("client-1", tokens["client-2"])


def test_what_starts_a_run_again_starts_it_the_same_way(tmp_path):
    known = _parser().parse([str(tmp_path / "a run"), "--max-restarts", "3"])
    config = toy(clients=2)

    command = _Launch(known, config, -1, {})._own_command()

    assert command[:5] == [sys.executable, "-m", "trainer", "launch", "fl"]
    again = _parser().parse(command[5:])
    assert (again.run_dir, again.max_restarts) == (tmp_path / "a run", 3)
    assert read_config(vars(again), {}, None) == config
