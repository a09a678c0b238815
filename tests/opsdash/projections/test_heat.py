"""Lateness over a run of any length."""

from hypothesis import given
from hypothesis import strategies as st

from opsdash.projections.heat import NUM_COLUMNS, HeatMap


def test_the_window_ends_with_the_newest_step():
    heat = HeatMap()
    for step in range(100):
        heat.put(step, {0: 0, 1: step})

    window = heat.window(5)

    assert (window.first_step, window.ranks) == (95, (0, 1))
    assert window.cells[1] == (95.0, 96.0, 97.0, 98.0, 99.0)


def test_columns_begin_at_multiples_of_their_width():
    heat = HeatMap()
    for step in range(1_234):
        heat.put(step, {0: step})

    window = heat.window(4, steps_per_column=100)

    assert window.first_step == 900
    assert window.cells[0] == (999.0, 1_099.0, 1_199.0, 1_233.0)


def test_a_step_that_was_not_measured_is_none():
    heat = HeatMap()
    heat.put(1, {0: 5})
    heat.put(3, {0: 7, 1: 9})

    window = heat.window(3)

    assert window.cells == ((5.0, None, 7.0), (None, None, 9.0))


def test_going_back_clears_what_lay_above():
    heat = HeatMap()
    for step in range(200):
        heat.put(step, {0: 1_000})

    heat.forget_above(99)
    heat.put(100, {0: 1})

    assert heat.last_step == 100
    assert heat.window(3).cells == ((1_000.0, 1_000.0, 1.0),)
    assert heat.window(1, last_step=150).cells == ((1.0,),)


@given(
    st.lists(
        st.tuples(st.integers(0, 200_000), st.integers(0, 3), st.integers(0, 10**6)),
        min_size=1,
        max_size=200,
    ),
    st.sampled_from([1, 2, 3, 5, 10, 20, 50, 70, 100, 500, 2_000, 10_000]),
)
def test_a_column_is_the_worst_of_its_steps(points, width):
    points.sort()
    heat, worst = HeatMap(), {}
    for step, rank, late in points:
        heat.put(step, {rank: late})
        key = (rank, step // width)
        worst[key] = max(worst.get(key, -1.0), float(late))

    window = heat.window(3, steps_per_column=width)
    first = window.first_step // width

    for rank, cells in zip(window.ranks, window.cells, strict=True):
        wanted = [worst.get((rank, first + index)) for index in range(len(cells))]
        assert list(cells) == wanted


def test_memory_is_bounded_in_steps_and_in_ranks():
    heat = HeatMap()

    for step in range(0, 10**7, 9_973):
        heat.put(step, {0: 1})
    heat.put(10**7, dict.fromkeys(range(3_000), 1))

    assert len(heat.window(10**9).cells[0]) <= NUM_COLUMNS
    assert len(heat.window(1).ranks) == 1_024
    assert heat.num_hidden_ranks > 0
