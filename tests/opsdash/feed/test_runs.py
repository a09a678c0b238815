"""The runs below a directory, each with its verdict."""

import os

from opsdash.feed import runs as module
from opsdash.feed.runs import RunsFeed, runs_below
from tests.runs import RunWriter


def finished(path):
    run = RunWriter(path)
    run.begin()
    run.beat()
    run.steps(1, 5)
    run.end()
    return run


def states(feed):
    return {row.path.name: str(row.verdict.state) for row in feed.rows}


def test_every_run_is_judged_newest_first(tmp_path):
    for number, name in enumerate(("old", "new")):
        run = finished(tmp_path / "group" / name)
        os.utime(run.run.attempts, (number + 1, number + 1))
        os.utime(run.run.identity, (number + 1, number + 1))
    (tmp_path / "no-run").mkdir()
    feed = RunsFeed(tmp_path)

    feed.look()

    assert [row.path.name for row in feed.rows] == ["new", "old"]
    assert states(feed) == {"new": "finished", "old": "finished"}
    assert {row.kind for row in feed.rows} == {"ddp"}


def test_a_run_that_goes_on_is_judged_anew(tmp_path):
    run = RunWriter(tmp_path / "run")
    run.begin()
    run.beat()
    run.steps(1, 5)
    feed = RunsFeed(tmp_path)
    feed.look()
    before = states(feed)

    run.end()
    feed.look()

    assert before != states(feed) == {"run": "finished"}


def test_a_run_that_is_gone_leaves_the_list(tmp_path):
    run = finished(tmp_path / "run")
    feed = RunsFeed(tmp_path)
    feed.look()

    run.run.identity.unlink()
    feed.look()

    assert feed.rows == ()


def test_a_strange_run_does_not_hide_the_others(tmp_path, monkeypatch):
    finished(tmp_path / "good")
    finished(tmp_path / "bad")
    reading = module._Reading.go_on

    def break_one(self):
        if self.reader.run.path.name == "bad":
            raise RuntimeError
        reading(self)

    monkeypatch.setattr(module._Reading, "go_on", break_one)
    feed = RunsFeed(tmp_path)

    feed.look()

    found = {row.path.name: row.verdict is not None for row in feed.rows}
    assert found == {"good": True, "bad": False}


def test_only_the_newest_runs_keep_their_readers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KEPT", 2)
    for number in range(5):
        finished(tmp_path / f"run-{number}")
    feed = RunsFeed(tmp_path)

    feed.look()

    assert len(feed._readings) == 2
    assert all(row.verdict is not None for row in feed.rows)


def test_links_and_hidden_directories_are_not_followed(tmp_path):
    finished(tmp_path / "elsewhere" / "run")
    here = tmp_path / "here"
    finished(here / ".hidden" / "run")
    (here / "link").symlink_to(tmp_path / "elsewhere")
    (here / "circle").symlink_to(here)

    assert list(runs_below(here)) == []
