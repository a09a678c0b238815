"""Missing events, told from sequence numbers."""

from hypothesis import given
from hypothesis import strategies as st

from opsdash.projections.sequence import Sequence


def missing(numbers):
    sequence = Sequence()
    for number in numbers:
        sequence.take(number)
    return sequence.num_missing


def test_numbers_without_a_gap_miss_nothing():
    assert missing(range(1_000)) == 0


def test_two_lines_that_were_swapped_miss_nothing():
    assert missing([0, 1, 3, 2, 4, *range(5, 200)]) == 0


def test_a_gap_counts_once_its_events_are_overdue():
    numbers = [0, 1, 5, *range(6, 60)]

    early, late = missing(numbers), missing([*numbers, *range(60, 100)])

    assert (early, late) == (0, 3)


def test_a_wide_gap_counts_at_once():
    assert missing([0, 1, 1_000]) == 998


def test_what_comes_late_fills_the_gap_that_it_left():
    late = range(100, 300)
    numbers = [*range(100), *range(300, 500)]

    assert missing(numbers) == 200
    assert missing([*numbers, *late]) == 0
    assert missing([*numbers, *late[50:], 500]) == 50
    assert missing([*numbers, *late[:1], *late[2:], 500, late[1]]) == 0


def test_whether_more_are_missing_is_told_once():
    sequence = Sequence()

    told = [sequence.take(number) for number in (0, 1_000, 500, 1_001, 1_002)]

    assert told == [False, True, False, False, False]
    assert sequence.num_missing == 998


def test_of_many_gaps_the_oldest_are_filled_by_number_alone():
    numbers = [2 * n for n in range(1_000)]

    assert missing([*numbers, 1]) == missing(numbers) - 1
    assert missing([*numbers, *range(1, 2_000, 2)]) == 0


def test_a_process_that_came_back_begins_anew_whatever_was_missing():
    numbers = [2 * n for n in range(200)]

    assert missing([*numbers, *range(500)]) == 199


def test_a_file_that_is_read_again_is_no_loss():
    assert missing([*range(500), *range(500)]) == 0


@given(
    st.integers(1, 2_000),
    st.sets(st.integers(0, 1_900), max_size=40),
    st.randoms(use_true_random=False),
)
def test_what_was_dropped_is_counted_whatever_the_threads_swapped(num, lost, random):
    numbers = [n for n in range(num) if n not in lost]
    for at in range(1, len(numbers) - 1, 2):
        if random.random() < 0.2:
            numbers[at], numbers[at + 1] = numbers[at + 1], numbers[at]
    # What lies before the first number that came cannot be known to be missing.
    first = numbers[0] if numbers else num

    found = missing([*numbers, *range(num, num + 200)])

    assert found == len([n for n in lost if first < n < num])


@given(st.lists(st.integers(0, 10**12), max_size=200))
def test_any_numbers_count_something_and_keep_little(numbers):
    sequence = Sequence()

    for number in numbers:
        sequence.take(number)

    assert sequence.num_missing >= 0
    assert len(sequence._gaps) <= 64
