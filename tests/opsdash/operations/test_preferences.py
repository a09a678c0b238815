"""What an operator likes, kept in one file beside what else stands there."""

import threading
import tomllib

import pytest

from opsdash.operations import preferences
from opsdash.operations.preferences import ThemeMemory, read_theme, write_theme


def test_a_theme_is_remembered_in_a_file_that_was_not_there(tmp_path):
    path = tmp_path / "opsdash" / "config.toml"

    write_theme(path, "light")

    assert read_theme(path) == "light"


def test_only_the_line_of_the_theme_changes(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('# mine\ntheme = "dark"  # old\n\n[other]\ntheme = "theirs"\n')

    write_theme(path, "light")

    assert read_theme(path) == "light"
    assert path.read_text().startswith("# mine\n")
    assert tomllib.loads(path.read_text())["other"] == {"theme": "theirs"}


def test_a_file_with_tables_only_gets_the_theme_before_them(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[other]\nx = 1\n")

    write_theme(path, "dark")

    assert tomllib.loads(path.read_text()) == {"theme": "dark", "other": {"x": 1}}


@pytest.mark.parametrize(
    "content",
    [b"", b"theme = 7", b"theme = ", b"\xff\xfe", b"[[[[", b"a=" + b"[" * 9999],
)
def test_a_file_that_says_nothing_sensible_is_no_wish(tmp_path, content):
    path = tmp_path / "config.toml"
    path.write_bytes(content)

    assert read_theme(path) is None
    assert read_theme(tmp_path / "nowhere.toml") is None


def test_of_themes_chosen_while_a_home_does_not_answer_the_last_is_kept(monkeypatch):
    stands, may_go_on, written = threading.Event(), threading.Event(), []

    def write(path, name):
        stands.set()
        assert may_go_on.wait(60)
        written.append(name)

    monkeypatch.setattr(preferences, "write_theme", write)
    memory = ThemeMemory("somewhere", written.append)
    memory.remember("light")
    assert stands.wait(60)
    memory.remember("dark")
    memory.remember("ansi-dark")
    memory.wait(0.0)
    before = list(written)
    may_go_on.set()
    memory.wait(60)

    assert before == []
    assert written == ["light", "ansi-dark"]


def test_a_theme_that_cannot_be_written_is_told_with_the_reason(tmp_path):
    told = []
    (tmp_path / "file").write_bytes(b"")
    memory = ThemeMemory(tmp_path / "file" / "config.toml", told.append)

    memory.remember("light")
    memory.wait(60)

    assert len(told) == 1
    assert "file" in told[0]
