"""Rank 0 follows the telemetry of all ranks, as far as it can be read."""

import pytest

from agent.emitter import Emitter
from agent.probes.straggler import StragglerWatch
from agent.rundir.events import RunStarted
from agent.rundir.layout import RunDir, rank_stem


def test_a_log_that_cannot_be_read_keeps_none_of_the_others_back(tmp_path):
    run = RunDir(tmp_path / "run")
    emitters = {}
    for rank in (0, 2):
        path = run.telemetry_file(1, rank_stem(rank))
        emitters[rank] = Emitter(path, node=f"rank-{rank}", rank=rank)
        emitters[rank].emit(
            RunStarted,
            schema=1,
            run_id="r",
            attempt=1,
            run_kind="ddp",
            host=f"host-{rank}",
            boot_id="b",
            pid=1,
            pid_start=1,
        )
    run.telemetry_file(1, rank_stem(1)).mkdir()
    watch = StragglerWatch(emitters[0], run, 1, 3)

    with pytest.raises(IsADirectoryError):
        watch.look()

    assert watch._hosts == {0: "host-0/b", 2: "host-2/b"}
    for emitter in emitters.values():
        emitter.close()
