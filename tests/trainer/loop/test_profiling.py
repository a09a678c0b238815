"""A window of the profiler over a few steps."""

import json

from tests.trainer.small import make


def test_a_window_leaves_a_table_and_a_trace(tmp_path):
    make(tmp_path / "run", profile_at=3, profile_steps=2).train()

    folder = tmp_path / "run" / "profiles"
    assert sorted(p.name for p in folder.iterdir()) == [
        "0001-rank-00000.json",
        "0001-rank-00000.txt",
    ]
    assert "aten::linear" in (folder / "0001-rank-00000.txt").read_text()
    assert json.loads((folder / "0001-rank-00000.json").read_text())["traceEvents"]


def test_a_run_that_ends_within_the_window_writes_what_there_is(tmp_path):
    make(tmp_path / "run", profile_at=11, profile_steps=50).train()

    folder = tmp_path / "run" / "profiles"
    assert "aten::linear" in (folder / "0001-rank-00000.txt").read_text()


def test_without_a_window_nothing_is_written(tmp_path):
    make(tmp_path / "run").train()

    assert not (tmp_path / "run" / "profiles").exists()
