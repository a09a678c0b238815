import random

import pytest

from agent.rundir.stragglers import WINDOW_STEPS, StragglerFold, loss_of

MS = 1_000_000
STEP_NS = 100 * MS


def jitter(rng: random.Random, num_ranks: int) -> dict[int, int]:
    late = {rank: int(rng.expovariate(1 / (0.3 * MS))) for rank in range(num_ranks)}
    return {rank: ns - min(late.values()) for rank, ns in late.items()}


def delayed(rng: random.Random, num_ranks: int, rank: int, delay_ns: int):
    late = jitter(rng, num_ranks)
    late[rank] += delay_ns
    return {r: ns - min(late.values()) for r, ns in late.items()}


def fold_steps(fold: StragglerFold, first: int, lateness) -> list:
    """Return the changes as (step, verdict)."""
    changes = []
    for step, found in enumerate(lateness, first):
        verdict = fold.observe(step, [found], STEP_NS)
        if verdict is not None:
            changes.append((step, verdict))
    return changes


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
@pytest.mark.parametrize("delay_ms", [6, 10, 50])
def test_a_straggler_is_named_within_twenty_steps_of_its_first(num_ranks, delay_ms):
    rng = random.Random(num_ranks)
    fold = StragglerFold()
    culprit = num_ranks - 1
    fold_steps(fold, 1, (jitter(rng, num_ranks) for _ in range(50)))

    changes = fold_steps(
        fold,
        51,
        (delayed(rng, num_ranks, culprit, delay_ms * MS) for _ in range(40)),
    )

    (step, verdict), *others = changes
    assert step - 50 <= WINDOW_STEPS
    assert verdict.straggler == culprit
    assert 40 <= verdict.since_step <= step
    assert others == []


def test_small_lateness_here_and_there_names_nobody():
    rng = random.Random(5)
    fold = StragglerFold()

    changes = fold_steps(fold, 1, (jitter(rng, 4) for _ in range(2_000)))

    assert changes == []


def test_a_single_long_wait_is_no_straggler():
    rng = random.Random(6)
    fold = StragglerFold()
    steps = [jitter(rng, 3) for _ in range(60)]
    steps[30] = delayed(rng, 3, 1, 150 * MS)

    assert fold_steps(fold, 1, steps) == []


def test_another_culprit_is_another_verdict_and_none_clears_it():
    rng = random.Random(7)
    fold = StragglerFold()
    steps = [delayed(rng, 3, 1, 20 * MS) for _ in range(40)]
    steps += [delayed(rng, 3, 2, 20 * MS) for _ in range(40)]
    steps += [jitter(rng, 3) for _ in range(40)]

    changes = fold_steps(fold, 1, steps)

    named = [verdict.straggler for _, verdict in changes]
    assert named[0] == 1
    assert 2 in named
    assert named[-1] is None
    assert not fold.verdict.is_rotating


def test_ever_another_straggler_is_rotating():
    rng = random.Random(8)
    fold = StragglerFold()

    changes = fold_steps(fold, 1, (delayed(rng, 4, i % 4, 30 * MS) for i in range(60)))

    assert [(v.straggler, v.is_rotating) for _, v in changes] == [(None, True)]
    assert changes[0][1].lost_frac == pytest.approx(0.3, abs=0.03)


def test_the_account_says_what_a_rank_cost_in_all():
    fold = StragglerFold()

    for step in range(100):
        fold.observe(step, [{0: 0, 1: 0, 2: 10 * MS}], STEP_NS)

    account = fold.accounts[2]
    assert fold.lost_frac(2) == pytest.approx(0.1)
    assert account.wall_ns == 100 * 10 * MS
    assert account.rank_ns == 2 * account.wall_ns
    assert account.num_last == 100
    assert fold.lost_frac(0) == 0.0


def test_the_loss_is_what_the_others_waited_in_the_middle():
    loss = loss_of({0: 0, 1: 8, 2: 9, 3: 10})

    assert (loss.rank, loss.wall_ns, loss.rank_ns) == (3, 2, 13)


def test_alone_nobody_is_waited_for():
    fold = StragglerFold()

    assert loss_of({0: 0}) is None
    assert [fold.observe(s, [{0: 0}], STEP_NS) for s in range(50)] == [None] * 50
