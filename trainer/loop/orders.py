"""Carry out what an operator asks for, on all ranks at the same step.

Rank 0's agent notices a request; a step's agreement tells all ranks that there
is one, and `share` which. A request that fails is told, and training goes on;
only a rollback that failed half way ends the run, as the ranks would differ.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agent.probes.agree import share
from agent.probes.inbox import PendingRequest
from agent.rundir.checkpoints import find_checkpoint, newest_resumable
from agent.rundir.errors import DamagedCheckpointError, NoCheckpointError, RunDirError
from agent.rundir.verify.path import verify_path
from agent.rundir.verify.verdict import EXIT_DAMAGED, Level
from trainer.checkpoint.load import AUTO, Decision, decide
from trainer.checkpoint.loading import give_up_above, load_together
from trainer.checkpoint.lock import publishing
from trainer.checkpoint.retention import set_pin
from trainer.checkpoint.verify import verify_published
from trainer.distributed.agreement import StepPart, Want, agree_on_step
from trainer.distributed.verdict import RankMissingError, from_main
from trainer.loop.profiling import ProfileWindow

if TYPE_CHECKING:
    from trainer.loop.steps import Loop

_PAUSE_POLL_S = 0.2
ORDER_BARRIER = "request.agree"


def obey(loop: "Loop") -> str | None:
    """Carry out the oldest request, if there is one. Every rank has to call it.

    Returns:
        Its kind; None: there was none, or the ranks could not all do it.

    Raises:
        RunDirError: a rank is missing, or the ranks differ now.
    """
    proposed = loop.agent.at_step(loop.state.progress.step)
    request = share(loop.agent, proposed, group=loop.world.steps)
    if request is None:
        return None
    try:
        with loop.agent.obeying(request):
            _ACTIONS[request.kind](loop, request)
    except RankMissingError:
        raise
    except RunDirError as error:
        if loop.is_torn:
            raise
        loop.say_on_main(f"`{request.kind}` failed: {error}")
    if request.kind == "pause" and not loop.is_paused:
        _wait_while_paused(loop)
    return request.kind


def _wait_while_paused(loop: "Loop") -> None:
    """Do what is asked for, and nothing else, until `continue` or `stop`."""
    loop.say_on_main("paused")
    loop.is_paused = True
    with loop.agent.in_phase("paused"):
        while loop.ending is None and not loop.is_rewound:
            time.sleep(_PAUSE_POLL_S)
            agreed = agree_on_step(loop.world, StepPart(0.0, 0, 0, loop.wants()))
            if Want.STOP in agreed.wants:
                break  # the next step sees it too, and saves
            if Want.REQUEST in agreed.wants and obey(loop) == "continue":
                break
    loop.is_paused = False
    loop.say_on_main("goes on")


def _save(loop: "Loop", request: PendingRequest) -> None:
    # Also where saves go on in the background: the outcome is told here.
    loop.saves.save(request.kind, is_needed=True)


def _stop(loop: "Loop", request: PendingRequest) -> None:
    loop.stop_here(request.kind)


def _nothing(loop: "Loop", request: PendingRequest) -> None:
    del loop, request


def _verify(loop: "Loop", request: PendingRequest) -> None:
    """Read a checkpoint or a file back on rank 0; a damaged one is a failure."""

    def verify() -> str:
        path, level = request.args.get("path"), request.args.get("level", "content")
        name = request.args.get("checkpoint")
        if path is None and level == Level.CONTENT.value:
            with publishing(loop.saver.run):
                return _verify_checkpoint(loop, name, request.by)
        place = _place(loop, name) if path is None else loop.saver.run.path / path
        verdict = verify_path(place, Level(level))
        if verdict.exit_code == EXIT_DAMAGED:
            why = "; ".join(finding.message for finding in verdict.findings[:3])
            raise DamagedCheckpointError(f"`{place}` is {verdict.state}: {why}")
        return f"`{place}` is {verdict.state}"

    limit_s = loop.config.load_limit_s
    with loop.agent.in_phase("verifying", limit_s=limit_s):
        loop.say_on_main(from_main(loop.world, ORDER_BARRIER, verify, limit_s=limit_s))


def _verify_checkpoint(loop: "Loop", name: str | None, by: str) -> str:
    run = loop.saver.run
    entry = newest_resumable(run) if name is None else find_checkpoint(run, name)
    verified = verify_published(run, entry.path.name, loop.agent.emit, by=by)
    if not verified.is_sound:
        raise DamagedCheckpointError(
            f"checkpoint `{entry.name}` is {verified.state}: {verified.why}"
        )
    return f"checkpoint `{entry.name}` is sound"


def _place(loop: "Loop", name: str | None) -> Path:
    run = loop.saver.run
    entry = newest_resumable(run) if name is None else find_checkpoint(run, name)
    return entry.path


def _set_pin(loop: "Loop", request: PendingRequest) -> None:
    def work() -> str:
        name = request.args["checkpoint"]
        is_pinned = request.kind == "pin"
        set_pin(loop.saver.run, name, is_pinned=is_pinned, by=request.by)
        return f"`{name}` is {request.kind}ned"

    limit_s = loop.config.load_limit_s
    loop.say_on_main(from_main(loop.world, ORDER_BARRIER, work, limit_s=limit_s))


def _profile(loop: "Loop", request: PendingRequest) -> None:
    """Open a profiler's window on rank 0 with the next step."""
    if not loop.world.is_main:
        return
    step = loop.state.progress.step
    window = loop.profile
    if window.is_taken(step):
        num_left = window.num_left or window.num_steps
        raise RunDirError(
            f"steps are being profiled already, {num_left} of them to come",
            hint=f"ls {window.folder}",
        )
    num_steps = int(request.args.get("steps", window.num_steps))
    num_before = num_steps if window.at is None else window.at - step
    if 0 < num_before < num_steps:
        raise RunDirError(
            f"steps are profiled from step {window.at} on: {num_steps} steps from "
            f"step {step} would run into them",
            hint=f"opsdash request {loop.saver.run.path} profile --steps {num_before}",
        )
    loop.profile = ProfileWindow(
        window.folder,
        stem=f"{window.stem.partition('-step-')[0]}-step-{step}",
        at=step,
        num_steps=num_steps,
        home=window.home,
        later=window if window.at is not None else None,
    )


def _roll_back(loop: "Loop", request: PendingRequest) -> None:
    """Load an older checkpoint and give up what lies above it."""
    run, world, agent = loop.saver.run, loop.world, loop.agent
    name = request.args.get("checkpoint") or AUTO

    def choose() -> str:
        decision = decide(run, name, agent.emit)
        if decision.name is None:
            raise NoCheckpointError(f"`{run.path}` has no checkpoint to go back to")
        return msgspec.json.encode(decision).decode()

    limit_s = loop.config.load_limit_s
    told = from_main(world, ORDER_BARRIER, choose, limit_s=limit_s)
    decision = msgspec.json.decode(told, type=Decision)
    loop.is_torn = True
    remarks = load_together(world, run, agent, decision, loop.state, loop.config)
    aside = give_up_above(
        world, run, agent, decision, attempt=loop.saver.attempt, limit_s=limit_s
    )
    loop.is_torn = False
    loop.rewind(decision)
    remarks += [f"checkpoint `{name}` is superseded" for name in aside]
    for remark in (*decision.remarks, *remarks, f"back at step {decision.step}"):
        loop.say_on_main(remark)


_ACTIONS: dict[str, Callable[["Loop", PendingRequest], None]] = {
    "checkpoint-now": _save,
    "stop": _stop,
    "pause": _nothing,
    "continue": _nothing,
    "verify": _verify,
    "pin": _set_pin,
    "unpin": _set_pin,
    "profile": _profile,
    "resume": _roll_back,
}
KINDS = tuple(_ACTIONS)
"""Requests that this trainer takes."""
