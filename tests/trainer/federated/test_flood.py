"""However often something happens, it is told sparingly, and none is forgotten."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.federated.flood import Allowance, Rate, Sparing

RATE = Rate(at_once=3, every_ns=10)


class Told:
    def __init__(self, rate=RATE):
        self.told = []
        self.sparing = Sparing(rate, self._tell)

    def _tell(self, *, num_untold, **fields):
        self.told.append((fields, num_untold))


def test_a_burst_passes_and_the_rest_is_held_back_until_there_is_room():
    told = Told()

    for number in range(100):
        told.sparing.add("client-1", {"number": number}, 1_000)
    at_once = list(told.told)
    told.sparing.look(1_009)
    told.sparing.look(1_010)

    assert at_once == [({"number": n}, 0) for n in range(3)]
    assert told.told == [*at_once, ({"number": 99}, 96)]


def test_one_source_does_not_silence_another():
    told = Told()

    for _ in range(100):
        told.sparing.add("mallory", {"client": "mallory"}, 0)
    told.sparing.add("client-1", {"client": "client-1"}, 0)

    assert told.told[-1] == ({"client": "client-1"}, 0)


def test_what_is_held_back_at_the_end_is_told_with_its_number():
    told = Told()
    for number in range(10):
        told.sparing.add("client-1", {"number": number}, 0)

    told.sparing.close()
    told.sparing.close()

    assert told.told[3:] == [({"number": 9}, 6)]


def test_a_source_that_has_been_quiet_takes_no_memory():
    told = Told()
    for number in range(1_000):
        told.sparing.add(f"client-{number}", {}, 0)

    told.sparing.look(9)
    num_early = len(told.sparing._sources)
    told.sparing.look(10)

    assert (num_early, len(told.sparing._sources)) == (1_000, 0)


@given(st.lists(st.integers(0, 25), max_size=60))
def test_no_more_is_taken_than_the_rate_allows_and_a_slow_one_is_never_refused(gaps):
    allowance, now_ns, taken = Allowance(RATE), 0, []

    for gap in gaps:
        now_ns += gap
        was_full = allowance.is_full(now_ns)
        is_taken = allowance.take(now_ns)
        assert is_taken or not was_full
        if is_taken:
            taken.append(now_ns)

    for first, since_ns in enumerate(taken):
        for last, until_ns in enumerate(taken[first:], start=first):
            most = RATE.at_once + (until_ns - since_ns) // RATE.every_ns
            assert last - first + 1 <= most


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 25)), max_size=60))
def test_all_that_happened_is_told_or_counted(happenings):
    told, now_ns = Told(), 0

    for name, gap in happenings:
        now_ns += gap
        told.sparing.add(name, {"name": name}, now_ns)
        told.sparing.look(now_ns)
    told.sparing.close()

    for name in "abc":
        counted = sum(1 + n for fields, n in told.told if fields == {"name": name})
        assert counted == sum(1 for happened, _ in happenings if happened == name)
