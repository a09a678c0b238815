import msgspec
import pytest

from agent.rundir.collectives import CollectiveFold
from agent.rundir.events import CollectivesSampled
from agent.rundir.lateness import Alignment, Passage

MS = 1_000_000
STEP_NS = 100 * MS
PER_STEP = 5
BEGAN_NS = 1_795_000_000_000_000_000
ONE_HOST = {0: "a", 1: "a", 2: "a"}


def sample(first_step, last_step, *, late_ns=0, clock=lambda t: t, mono=None, before=0):
    """Return what a rank tells of some steps; its later buckets are `late_ns` late.

    The group was made after `before` steps and counts from there.
    """
    starts = []
    for step in range(first_step, last_step + 1):
        for bucket in range(PER_STEP):
            late = late_ns if bucket >= 2 else 0
            starts.append(clock(BEGAN_NS + step * STEP_NS + bucket * 4 * MS + late))
    emitted = BEGAN_NS + (last_step + 1) * STEP_NS
    return CollectivesSampled(
        time_ns=clock(emitted),
        mono_ns=(mono or clock)(emitted),
        node="rank",
        step=last_step,
        group="0 default_pg",
        first_id=(first_step - before) * PER_STEP,
        started_ns=tuple(starts),
    )


def observe_all(fold, first, last, late_ns):
    return [
        step
        for rank in sorted(late_ns)
        for step in fold.observe(rank, sample(first, last, late_ns=late_ns[rank]))
    ]


def test_a_rank_that_is_late_inside_backward_is_late_once_per_step():
    fold = CollectiveFold(ONE_HOST, Alignment(ONE_HOST))
    late_ns = {0: 0, 1: 26 * MS, 2: 1 * MS}
    observe_all(fold, 1, 20, late_ns)

    steps = observe_all(fold, 21, 40, late_ns)

    # The sample before was too few to count a step's collectives by.
    assert [s.step for s in steps] == list(range(1, 41))
    assert all(s.lateness_ns == late_ns for s in steps)
    assert steps[-1].step_ns == STEP_NS


def test_samples_that_overlap_are_told_once():
    fold = CollectiveFold(ONE_HOST, Alignment(ONE_HOST))
    late_ns = dict.fromkeys(ONE_HOST, 0)
    observe_all(fold, 1, 20, late_ns)
    observe_all(fold, 21, 40, late_ns)

    again = [fold.observe(rank, sample(31, 40)) for rank in ONE_HOST]
    later = observe_all(fold, 41, 45, late_ns)

    assert again == [[], [], []]
    assert [s.step for s in later] == list(range(41, 46))


def test_a_group_that_was_made_again_counts_from_the_beginning():
    fold = CollectiveFold(ONE_HOST, Alignment(ONE_HOST))
    late_ns = {0: 0, 1: 26 * MS, 2: 1 * MS}
    observe_all(fold, 1, 20, dict.fromkeys(ONE_HOST, 0))
    observe_all(fold, 21, 40, dict.fromkeys(ONE_HOST, 0))

    # Rank 0 is ahead: it counts again what the others still count on.
    found = []
    for rank, first, last, before in (
        (0, 43, 80, 42),
        (0, 81, 100, 42),
        (1, 41, 42, 0),
        (2, 41, 42, 0),
        (1, 43, 100, 42),
        (2, 43, 100, 42),
    ):
        told = sample(first, last, late_ns=late_ns[rank], before=before)
        found.append(fold.observe(rank, told))

    *earlier, last = found
    assert not any(earlier)
    assert [step.step for step in last] == list(range(43, 101))
    assert all(step.lateness_ns == late_ns for step in last)
    assert last[-1].step_ns == STEP_NS


def test_a_group_of_some_ranks_is_compared_once_the_others_told_without_it():
    fold = CollectiveFold(ONE_HOST, Alignment(ONE_HOST))
    late_ns = {1: 0, 2: 26 * MS}
    found = []
    for first in range(1, 60, 10):
        for rank in ONE_HOST:
            group = "1 tensor parallel" if rank in late_ns else "2 alone"
            told = sample(first, first + 9, late_ns=late_ns.get(rank, 0))
            found.append(fold.observe(rank, msgspec.structs.replace(told, group=group)))

    # Rank 0 has told its fourth sample by then.
    first_found = next(number for number, steps in enumerate(found) if steps)
    assert first_found == 3 * len(ONE_HOST) + 1
    steps = [step for steps in found for step in steps]
    assert [step.step for step in steps] == list(range(1, 61))
    assert all(step.lateness_ns == late_ns for step in steps)


def test_of_groups_without_end_the_latest_are_kept():
    fold = CollectiveFold(ONE_HOST, Alignment(ONE_HOST))

    for number in range(1_000):
        told = msgspec.structs.replace(sample(1, 2), group=f"{number} undefined")
        fold.observe(0, told)
        fold.observe(0, sample(number + 1, number + 1))

    assert len(fold._rings) == 64
    assert {"0 default_pg", "999 undefined"} <= fold._rings.keys()


def test_a_rank_that_tells_later_is_waited_for():
    fold = CollectiveFold(ONE_HOST, Alignment(ONE_HOST))
    observe_all(fold, 1, 20, dict.fromkeys(ONE_HOST, 0))
    observe_all(fold, 21, 40, dict.fromkeys(ONE_HOST, 0))

    assert fold.observe(0, sample(41, 44)) == []
    assert fold.observe(1, sample(41, 44)) == []
    steps = fold.observe(2, sample(41, 42))

    assert [s.step for s in steps] == [41, 42]


def test_clocks_of_two_hosts_are_compared_only_when_aligned():
    hosts = {0: "a", 1: "b"}
    alignment = Alignment(hosts)
    fold = CollectiveFold(hosts, alignment)

    def wall(t):
        return t + 3_000 * MS

    def mono(t):
        return t - BEGAN_NS + 7_000 * MS

    def tell(first, last):
        fold.observe(0, sample(first, last, mono=lambda t: t - BEGAN_NS))
        late = sample(first, last, late_ns=20 * MS, clock=wall, mono=mono)
        return fold.observe(1, late)

    tell(1, 20)
    assert tell(21, 40) == []

    for place in range(40):
        released = place * STEP_NS
        alignment.observe(
            {0: Passage(released, 0), 1: Passage(released + 7_000 * MS, 0)}
        )
    steps = tell(41, 60)

    assert steps
    assert steps[-1].lateness_ns == {0: 0, 1: 20 * MS}


def test_an_event_that_says_why_there_are_none_is_no_sample():
    fold = CollectiveFold(ONE_HOST, Alignment(ONE_HOST))
    event = CollectivesSampled(
        time_ns=1, mono_ns=1, node="x", group="unavailable", first_id=0, started_ns=()
    )

    assert fold.observe(0, event) == []
    assert fold.observe(9, sample(1, 2)) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_never_tells_is_forgotten_in_time(rank):
    fold = CollectiveFold(ONE_HOST, Alignment(ONE_HOST))

    for step in range(1, 3_000):
        fold.observe(rank, sample(step, step))

    assert len(fold._rings["0 default_pg"].starts[rank]) <= 1_024
