"""What an operator likes, kept in one file beside what else stands there."""

import tomllib

import pytest

from opsdash.operations.preferences import read_theme, write_theme


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
