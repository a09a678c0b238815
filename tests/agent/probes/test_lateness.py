"""Real ranks that come 5-50 ms late, seen through clocks seconds apart."""

import pytest

from benchmarks.lateness import record, scores


@pytest.mark.dist
@pytest.mark.slow
def test_injected_delays_are_recovered_and_the_culprit_is_right(tmp_path):
    true = record(tmp_path, num_ranks=3, num_barriers=100)

    found = scores(true)

    back, live = found["one line, looking back"], found["one line, while it goes on"]
    assert back.p99_ms <= 1.0
    assert live.p99_ms <= 1.0
    assert back.last_frac >= 0.99
    assert live.last_frac >= 0.99
    assert found["each barrier's own release"].p50_ms > 0
