import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rundir.lateness import (
    ClockLine,
    LatenessFold,
    Passage,
    fit_clock,
    lateness,
    lateness_of_all,
)

MS = 1_000_000
S = 1_000 * MS


def simulated(seed: int, num_barriers: int, num_ranks: int = 3):
    """Return true lateness and what each rank's own clock saw of it.

    Clocks are up to 5 s and 50 ppm apart; waking up takes 0.15 ms, and now and
    then up to 8 ms; one rank at a time is 5-50 ms late.
    """
    rng = random.Random(seed)
    offset = {r: rng.uniform(-5 * S, 5 * S) for r in range(num_ranks)}
    drift = {r: rng.uniform(-50e-6, 50e-6) for r in range(num_ranks)}

    def clock(rank: int, true_ns: float) -> int:
        return int(true_ns + offset[rank] + drift[rank] * true_ns)

    truth, seen = [], []
    for barrier in range(num_barriers):
        begin = 10**15 + barrier * 100 * MS
        arrived = {r: begin + rng.expovariate(1 / MS) for r in range(num_ranks)}
        arrived[rng.randrange(num_ranks)] += rng.uniform(5 * MS, 50 * MS)
        passages = {}
        for rank, then in arrived.items():
            wake = rng.expovariate(1 / (0.15 * MS))
            wake += rng.uniform(0, 8 * MS) if rng.random() < 0.05 else 0
            released = max(arrived.values()) + wake
            own = clock(rank, then)
            passages[rank] = Passage(own, clock(rank, released) - own)
        truth.append({r: then - min(arrived.values()) for r, then in arrived.items()})
        seen.append(passages)
    return truth, seen


def errors_ns(found, truth):
    return sorted(
        abs(ours[rank] - true[rank])
        for ours, true in zip(found, truth, strict=True)
        for rank in true
    )


def last(lateness_ns):
    return max(lateness_ns, key=lateness_ns.get)


@pytest.mark.parametrize("seed", range(5))
def test_clocks_seconds_apart_and_drifting_do_not_hide_who_is_late(seed):
    truth, seen = simulated(seed, 600)

    found = lateness_of_all(seen, {rank: f"host-{rank}" for rank in range(3)})

    errors = errors_ns(found, truth)
    right = sum(last(f) == last(t) for f, t in zip(found, truth, strict=True))
    assert errors[int(0.99 * len(errors))] <= 1 * MS
    assert right >= 0.99 * len(truth)


def test_while_it_goes_on_the_past_is_enough():
    truth, seen = simulated(1, 600)
    fold = LatenessFold({rank: f"host-{rank}" for rank in range(3)})

    found = [
        fold.observe(rank, "step", index, passage)
        for index, passages in enumerate(seen)
        for rank, passage in passages.items()
    ]

    told = [f for f in found if f is not None]
    errors = errors_ns([f.lateness_ns for f in told[32:]], truth[32:])
    assert [f.number for f in told] == list(range(600))
    assert errors[int(0.99 * len(errors))] <= 1 * MS
    assert told[-1].num_releases == 256


def test_ranks_of_one_host_share_its_clock_and_are_exact_at_once():
    fold = LatenessFold({0: "a", 1: "a"})

    fold.observe(0, "save", 0, Passage(1_000, 500))
    found = fold.observe(1, "save", 0, Passage(1_400, 9_999))

    assert found.lateness_ns == {0: 0, 1: 400}
    assert found.num_releases == 0


@settings(max_examples=200)
@given(
    offset=st.integers(-(10**12), 10**12),
    drift=st.floats(-200e-6, 200e-6),
    wrong=st.sets(st.integers(0, 39), max_size=9),
)
def test_a_line_is_found_though_a_quarter_of_the_releases_are_wild(
    offset, drift, wrong
):
    own = [10**15 + i * 100 * MS for i in range(40)]
    reference = [t + offset + round(drift * (t - own[0])) for t in own]
    for place in wrong:
        reference[place] += 30 * S

    line = fit_clock(own, reference)

    for place in set(range(40)) - wrong:
        assert abs(line.to_reference(own[place]) - reference[place]) < 0.1 * MS


def test_one_release_gives_an_offset_and_no_drift():
    assert fit_clock([5], [100]) == ClockLine(5, 95, 0.0)


def test_a_clock_that_stands_still_is_no_division_by_zero():
    assert fit_clock([5, 5, 5, 5], [7, 7, 7, 7]).drift == 0.0


def test_a_steep_line_through_a_short_window_is_noise():
    own = [0, 1 * MS, 2 * MS, 3 * MS]

    line = fit_clock(own, [0, 1 * MS, 4 * MS, 9 * MS])

    assert abs(line.drift) <= 500e-6


def test_a_wrong_line_cannot_make_a_rank_later_than_the_longest_wait():
    passages = {0: Passage(0, 300), 1: Passage(200, 100)}

    found = lateness(passages, {1: ClockLine(0, 10**15, 0.0)})

    assert found == {0: 0, 1: 300}


def test_a_barrier_that_a_rank_never_tells_is_given_up():
    fold = LatenessFold({0: "a", 1: "b"})

    for index in range(5_000):
        fold.observe(0, "step", index, Passage(index, 0))

    assert len(fold._open) <= 1_024
    assert fold.observe(1, "step", 4_999, Passage(0, 0)) is not None
