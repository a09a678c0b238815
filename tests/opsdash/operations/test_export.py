"""Events as a file for other programs."""

import csv
import json
import os

import pytest

from agent.rundir.errors import RunDirError
from opsdash.operations.export import EventExport, ExportedEvent
from opsdash.projections.event_words import Severity


def event(number, **fields):
    return ExportedEvent(
        **{
            "time_ns": number,
            "attempt": 1,
            "node": "rank-00000",
            "kind": "step_done",
            "severity": Severity.INFO,
            "step": number,
            "round_num": None,
            "text": f"loss {number}",
            "file": "0001/rank-00000.jsonl",
            "offset": 10 * number,
            "line": json.dumps({"kind": "step_done", "step": number}),
            **fields,
        }
    )


def export(path, events):
    found = EventExport(path)
    for one in events:
        found.write(one)
    found.finish()


def test_json_lines_are_the_lines_as_they_were_told(tmp_path):
    export(tmp_path / "out.jsonl", [event(n) for n in range(5)])

    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5))


def test_a_line_that_is_no_object_is_told_as_one(tmp_path):
    export(tmp_path / "out.jsonl", [event(1, line='{"torn', kind="unreadable")])

    told = json.loads((tmp_path / "out.jsonl").read_text())
    assert (told["kind"], told["severity"]) == ("unreadable", "info")


def test_a_name_that_is_no_utf_8_is_told_with_escapes(tmp_path):
    export(tmp_path / "out.jsonl", [event(1, line="", node=os.fsdecode(b"caf\xe9"))])

    told = json.loads((tmp_path / "out.jsonl").read_text())
    assert told["node"] == "caf\\udce9"


def test_csv_has_a_header_and_no_formulas(tmp_path):
    bad = event(2, text='=HYPERLINK("http://evil")', node="-1+1")
    export(tmp_path / "out.csv", [event(1, text='a "b", c\nd'), bad])

    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["text"] == 'a "b", c\nd'
    assert rows[1]["text"].startswith("'=")
    assert rows[1]["node"] == "'-1+1"
    assert rows[0]["round_num"] == ""


def test_a_file_that_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "out.csv").write_text("precious")

    with pytest.raises(RunDirError, match="cannot be written"):
        EventExport(tmp_path / "out.csv")

    assert (tmp_path / "out.csv").read_text() == "precious"


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(RunDirError, match="must end in"):
        EventExport(tmp_path / "out.xlsx")


def test_what_is_discarded_leaves_nothing(tmp_path):
    found = EventExport(tmp_path / "out.csv")
    found.write(event(1))

    found.discard()

    assert not (tmp_path / "out.csv").exists()
