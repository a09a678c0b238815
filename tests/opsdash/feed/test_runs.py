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


def going(path, at_s):
    """A run that goes on, begun so many seconds after 1970."""
    run = RunWriter(path)
    run.begin()
    run.beat()
    run.steps(1, 5)
    date(run, at_s)
    return run


def date(run, at_s):
    for path in (run.run.attempts, run.run.identity):
        os.utime(path, (at_s, at_s))


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
            raise RuntimeError("no such thing")
        reading(self)

    monkeypatch.setattr(module._Reading, "go_on", break_one)
    feed = RunsFeed(tmp_path)

    feed.look()

    found = {row.path.name: row.verdict is not None for row in feed.rows}
    assert found == {"good": True, "bad": False}
    troubles = {row.path.name: row.trouble for row in feed.rows}
    assert troubles == {"good": "", "bad": "RuntimeError: no such thing"}


def test_a_run_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    finished(tmp_path / "run")
    feed = RunsFeed(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(module._Reading, "go_on", lambda _: 1 // 0)
        feed.look()

    feed.look()

    assert states(feed) == {"run": "finished"}
    assert [row.trouble for row in feed.rows] == [""]


def test_only_the_newest_runs_keep_their_readers(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KEPT", 2)
    for number in range(5):
        finished(tmp_path / f"run-{number}")
    feed = RunsFeed(tmp_path)

    feed.look()

    assert len(feed._readings) == 2
    assert all(row.verdict is not None for row in feed.rows)


def test_an_older_run_that_goes_on_is_looked_at_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KEPT", 1)
    old = [going(tmp_path / name, at_s) for name, at_s in (("a", 1), ("b", 2))]
    finished(tmp_path / "newest")
    feed = RunsFeed(tmp_path)
    feed.look()
    before = states(feed)

    for run in old:
        run.end()
        date(run, 1)
    feed.look()

    assert before["a"] == before["b"] != "finished"
    assert states(feed) == dict.fromkeys(("a", "b", "newest"), "finished")


def test_an_older_run_that_is_over_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KEPT", 1)
    date(finished(tmp_path / "old"), 1)
    finished(tmp_path / "newest")
    feed = RunsFeed(tmp_path)
    feed.look()
    read, go_on = [], module._Reading.go_on
    monkeypatch.setattr(
        module._Reading,
        "go_on",
        lambda self: (read.append(self.reader.run.path.name), go_on(self)),
    )

    feed.look()

    assert read == ["newest"]


def test_older_runs_have_their_turns_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KEPT", 1)
    monkeypatch.setattr(module, "_TURNS_S", 0.0)
    for number in range(4):
        going(tmp_path / f"run-{number}", number + 1)
    feed = RunsFeed(tmp_path)
    read, go_on = [], module._Reading.go_on
    monkeypatch.setattr(
        module._Reading,
        "go_on",
        lambda self: (read.append(self.reader.run.path.name), go_on(self)),
    )

    for _ in range(4):
        feed.look()

    older = [name for name in read if name != "run-3"]
    assert older == ["run-2", "run-1", "run-0", "run-2"]


def test_an_older_run_with_a_long_past_is_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_KEPT", 1)
    monkeypatch.setattr(module, "_SLICE_S", 0.0)
    date(finished(tmp_path / "old"), 1)
    finished(tmp_path / "newest")
    feed = RunsFeed(tmp_path)
    backlog = iter([2, 1, 0])
    go_on = module._Reading.go_on

    def stay_behind(self):
        go_on(self)
        if self.reader.run.path.name == "old":
            self.is_behind = next(backlog) > 0

    monkeypatch.setattr(module._Reading, "go_on", stay_behind)

    feed.look()
    first = feed._readings[tmp_path / "old"]
    feed.look()

    assert feed._readings[tmp_path / "old"] is first


def test_links_and_hidden_directories_are_not_followed(tmp_path):
    finished(tmp_path / "elsewhere" / "run")
    here = tmp_path / "here"
    finished(here / ".hidden" / "run")
    (here / "link").symlink_to(tmp_path / "elsewhere")
    (here / "circle").symlink_to(here)

    assert list(runs_below(here)) == []
