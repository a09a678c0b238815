import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rundir.thinning import Line, choose, peek


def lines_of(*events: dict) -> list[Line]:
    lines, offset = [], 0
    for event in events:
        text = msgspec.json.encode(event) + b"\n"
        lines.append(Line(offset, text))
        offset += len(text)
    return lines


def kept(*events: dict) -> list[int]:
    lines = lines_of(*events)
    return choose(lines, peek(lines))


def step(loss: float | None, **fields) -> dict:
    return {"kind": "step_done", "loss": loss, **fields}


def test_of_steps_the_last_and_the_extremes_stay():
    losses = [2.0, 5.0, 3.0, 1.0, 2.5, None]

    assert kept(*(step(loss) for loss in losses)) == [1, 3, 5]


def test_steps_without_any_loss_leave_the_last():
    assert kept(step(None), step(None)) == [1]


def test_steps_that_were_not_finite_stay():
    events = [step(1.0), step(None, is_skipped=True), step(None, nonfinite="w")]

    assert kept(*events, step(1.0), step(1.0)) == [0, 1, 2, 4]


def test_rare_and_unknown_kinds_stay_and_of_frequent_ones_the_last():
    kinds = ["run_started", "heartbeat", "of_a_newer_version", "heartbeat", "disk_low"]

    assert kept(*({"kind": kind} for kind in kinds)) == [0, 2, 3, 4]


def test_of_a_rare_kind_that_comes_in_masses_the_first_and_the_last_stay():
    found = kept(*({"kind": "nonfinite_found", "seq": n} for n in range(100)))

    assert found == [*range(16), *range(84, 100)]


def test_lines_that_are_no_events_stay_as_examples():
    lines = [Line(0, b"{}\n"), Line(3, b"\xff\n"), Line(5, b"nonsense\n")]
    lines += [Line(14, b'{"kind":"disk_low"}\n')]

    marks = peek(lines)

    assert [mark and mark.kind for mark in marks] == [None, None, None, "disk_low"]
    assert choose(lines, marks) == [0, 1, 3]


def test_what_is_kept_is_bounded_in_bytes_and_the_newest_stays():
    events = [{"kind": f"kind_{n}", "text": "x" * 10_000} for n in range(20)]
    giant = {"kind": "giant", "text": "x" * 20_000}

    found = kept(giant, *events, giant)

    assert found == list(range(15, 21))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["step_done", "heartbeat", "phase_changed", "disk_low"]),
            st.none() | st.floats(0, 10),
        ),
        min_size=1,
        max_size=120,
    )
)
def test_a_curve_of_what_stays_has_every_peak(events):
    found = kept(*({"kind": kind, "loss": loss} for kind, loss in events))

    def losses(chosen):
        return [x for kind, x in chosen if kind == "step_done" and x is not None]

    assert found == sorted(set(found))
    assert max(i for i, e in enumerate(events)) in found
    before, after = losses(events), losses([events[i] for i in found])
    assert (min(before, default=None), max(before, default=None)) == (
        min(after, default=None),
        max(after, default=None),
    )
    rare = [i for i, (kind, _) in enumerate(events) if kind == "disk_low"]
    assert set(rare[:16] + rare[-16:]) <= set(found)
