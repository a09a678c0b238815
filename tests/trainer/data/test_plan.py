"""Which rank reads which sample: every sample once, from any position, on any ranks."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.data.plan import BatchPlan

PLANS = st.builds(
    BatchPlan,
    num_samples=st.integers(1, 120),
    world_size=st.integers(1, 4),
    rank=st.just(0),
    batch_size=st.integers(1, 5),
    accumulate=st.integers(1, 3),
    seed=st.integers(0, 5),
    shuffle=st.booleans(),
)


def counted(plan, epoch, offset=0):
    """Return the samples that count, of all ranks, in the order of their steps."""
    ranks = [plan._replace(rank=rank) for rank in range(plan.world_size)]
    steps = [list(ranked.steps(epoch, offset)) for ranked in ranks]
    return [
        sorted(
            index
            for step in of_ranks
            for micro in step.micro_batches
            for index in micro.indices[: micro.num_samples]
        )
        for of_ranks in zip(*steps, strict=True)
    ]


@given(PLANS, st.integers(0, 3))
def test_an_epoch_reads_every_sample_exactly_once(plan, epoch):
    read = [index for step in counted(plan, epoch) for index in step]

    assert sorted(read) == list(range(plan.num_samples))


@given(PLANS, st.integers(0, 3), st.data())
def test_from_a_position_on_the_epoch_is_as_if_it_was_never_left(plan, epoch, data):
    steps = list(plan.steps(epoch))
    done = data.draw(st.integers(0, len(steps)))
    offset = steps[done - 1].end if done else 0

    assert list(plan.steps(epoch, offset)) == steps[done:]


@given(PLANS, st.integers(1, 4), st.data())
def test_another_number_of_ranks_reads_exactly_what_is_left(plan, num_ranks, data):
    steps = list(plan.steps(0))
    done = data.draw(st.integers(0, len(steps)))
    offset = steps[done - 1].end if done else 0
    already = {index for step in counted(plan, 0)[:done] for index in step}

    rest = counted(plan._replace(world_size=num_ranks), 0, offset)

    read = [index for step in rest for index in step]
    assert sorted([*read, *already]) == list(range(plan.num_samples))


@given(PLANS)
def test_all_ranks_make_the_same_number_of_passes_and_none_is_empty(plan):
    of_ranks = [
        list(plan._replace(rank=rank).steps(0)) for rank in range(plan.world_size)
    ]

    for steps in zip(*of_ranks, strict=True):
        assert len({len(step.micro_batches) for step in steps}) == 1
        assert len({(step.num_samples, step.end) for step in steps}) == 1
        for step in steps:
            assert all(micro.indices for micro in step.micro_batches)


@given(PLANS)
def test_a_step_counts_as_many_samples_as_its_ranks_do(plan):
    of_ranks = [
        list(plan._replace(rank=rank).steps(0)) for rank in range(plan.world_size)
    ]

    for steps in zip(*of_ranks, strict=True):
        total = sum(m.num_samples for step in steps for m in step.micro_batches)
        assert total == steps[0].num_samples <= plan.step_samples


def test_epochs_differ_in_order_and_seeds_too():
    plan = BatchPlan(num_samples=50, world_size=1, rank=0, batch_size=5)

    orders = {tuple(plan.order(0)), tuple(plan.order(1))}
    orders.add(tuple(plan._replace(seed=1).order(0)))

    assert len(orders) == 3
    assert plan.order(1) == plan.order(1)


def test_the_number_of_steps_counts_the_smaller_last_one():
    plan = BatchPlan(num_samples=50, world_size=2, rank=1, batch_size=4, accumulate=3)

    assert plan.steps_per_epoch == len(list(plan.steps(0))) == 3
