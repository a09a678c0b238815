"""What each request will do to the running trainer, told before it is made.

One function per kind; nothing is written here. What is lost is told in steps
and in the time that they take.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agent.rundir.checkpoints import CheckpointEntry, find_checkpoint, newest_resumable
from agent.rundir.errors import EXIT_RUN_DIR
from agent.rundir.layout import RunDir
from agent.rundir.request_args import check_args
from agent.rundir.requests import RefusedRequestError
from opsdash import units
from opsdash.operations.plan import Plan, name_of
from opsdash.operations.resume import what_is_lost
from opsdash.operations.standing import Standing, note_of_silence, why_deaf
from opsdash.operations.store_plans import find_round, notes_of_round, store_path

FLAGS = {
    "checkpoint": "--checkpoint",
    "node": "--node",
    "round_num": "--round",
    "tensors": "--tensors",
    "steps": "--steps",
    "level": "--level",
    "path": "--path",
    "ranks": "--ranks",
}
"""How `opsdash request` spells the arguments of a request."""


class _Effect(NamedTuple):
    """What a kind of request does."""

    title: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_destructive: bool = False


def plan_request(
    run: RunDir, kind: str, args: dict[str, Any], standing: Standing
) -> Plan:
    """Return what asking the running trainer for something will do.

    Raises:
        RunDirError: the request makes no sense, whoever runs.
    """
    problem = check_args(run, kind, args)
    if problem is not None:
        raise RefusedRequestError(problem)
    effect = _EFFECTS[kind](run, args, standing)
    return Plan(
        kind=kind,
        title=effect.title,
        reads=effect.reads,
        writes=(*effect.writes, "requests/: the request"),
        loses=effect.loses,
        command=command_of(run, kind, args),
        subject=_subject(args),
        agrees=_who_agrees(kind, standing),
        confirm_name=name_of(run) if effect.is_destructive else "",
        notes=(*effect.notes, *_why_late(run, kind, standing)),
        why_not=why_deaf(run, kind),
        exit_code=EXIT_RUN_DIR,
    )


def command_of(run: RunDir, kind: str, args: dict[str, Any]) -> tuple[str, ...]:
    """Return the shell command that makes the same request."""
    words = ["opsdash", "request", str(run.path), kind]
    for name, value in args.items():
        if value is None:
            continue
        if name == "mapping":
            for pair in value.items():
                words += ["--map", "=".join(pair)]
        elif isinstance(value, tuple | list):
            words += [FLAGS[name], ",".join(map(str, value))]
        else:
            words += [FLAGS[name], str(value)]
    return tuple(words)


def _subject(args: dict[str, Any]) -> str | None:
    node = args.get("node")
    return args.get("checkpoint") or (None if node is None else f"chunks/{node}")


def _why_late(run: RunDir, kind: str, standing: Standing) -> list[str]:
    """Return what may keep the trainer from a safe point."""
    notes = [note_of_silence(run, standing.silence_ns)]
    if kind != "stacks" and standing.hang:
        notes.append(f"{standing.hang}: nothing is done until that ends")
    return [note for note in notes if note]


def _who_agrees(kind: str, standing: Standing) -> tuple[str, ...]:
    if kind == "stacks":
        return ("nobody: each process writes its own, also one that hangs",)
    if standing.is_federated:
        return ("the server; an open round is ended first where it has to be",)
    if standing.num_processes is None:
        return ("all ranks, at the end of a step",)
    num = standing.num_processes
    return (f"all {num} ranks, at the end of a step" if num > 1 else "the one rank",)


def _save(_run: RunDir, _args: dict[str, Any], standing: Standing) -> _Effect:
    size = units.byte_size(standing.size_bytes)
    about = f", about {size}" if standing.size_bytes is not None else ""
    step = "" if standing.step is None else f" (now at {units.count(standing.step)})"
    return _Effect(
        "save a checkpoint now",
        reads=("the training state of all ranks, in memory",),
        writes=(f"checkpoints/: one more{about}, of the next step{step}",),
        notes=_pause_for(standing.save_ns),
    )


def _pause_for(save_ns: int | None) -> tuple[str, ...]:
    if save_ns is None:
        return ("training waits until it is on the disk and was read back",)
    return (f"training waits for it: the newest save took {units.duration(save_ns)}",)


def _stop(_run: RunDir, _args: dict[str, Any], standing: Standing) -> _Effect:
    if standing.is_federated:
        return _Effect(
            "stop the federation",
            writes=("the round that is open, once it is committed",),
            notes=("every process ends; `opsdash resume` goes on from there",),
            is_destructive=True,
        )
    return _Effect(
        "stop the run",
        writes=("checkpoints/: one of the step at which it stops",),
        notes=(
            *_pause_for(standing.save_ns),
            "every process ends; `opsdash resume` goes on from that step",
        ),
        is_destructive=True,
    )


def _pause(_run: RunDir, _args: dict[str, Any], standing: Standing) -> _Effect:
    unit = "round" if standing.is_federated else "step"
    return _Effect(
        "pause the run",
        notes=(
            f"it stands still after the {unit} that runs now, until `continue`",
            "memory and accelerators stay taken",
        ),
    )


def _continue(_run: RunDir, _args: dict[str, Any], _standing: Standing) -> _Effect:
    return _Effect("let the run go on")


def _resume(run: RunDir, args: dict[str, Any], standing: Standing) -> _Effect:
    entry = _entry(run, args)
    size = units.byte_size(entry.manifest.size_bytes if entry.manifest else None)
    verified = "" if entry.why_not is None else f"; {entry.why_not}"
    return _Effect(
        f"go back to {entry.name} while it runs",
        reads=(f"{entry.name}: {size}, by every rank{verified}",),
        writes=("the state of model, optimizer, data and random numbers, in memory",),
        loses=tuple(what_is_lost(run, entry, standing.loss)),
        notes=("a rollback that fails half way ends the run",),
        is_destructive=True,
    )


def _entry(run: RunDir, args: dict[str, Any]) -> CheckpointEntry:
    name = args.get("checkpoint")
    return newest_resumable(run) if name is None else find_checkpoint(run, name)


def note_of_names(mapping: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return which tensors get another name, in words; nothing: none does."""
    renamed = ", ".join(map("=".join, (mapping or {}).items()))
    return (f"under other names: {renamed}",) if renamed else ()


def _restore(run: RunDir, args: dict[str, Any], standing: Standing) -> _Effect:
    node, round_num, glob = args["node"], args["round_num"], args.get("tensors")
    row = find_round(run, node, round_num, glob)
    what = "the model" if glob is None else f"the tensors `{glob}`"
    lost = ""
    if standing.step is not None and standing.step > round_num:
        lost = f"what rounds {round_num + 1} to {standing.step} learnt in {what}"
    return _Effect(
        f"restore {what} of {node}, round {round_num}, into the running federation",
        reads=(f"chunks/{node}: the chunks of round {round_num}, each one checked",),
        writes=("the server's global model, as a round of its own",),
        loses=(lost,) if lost else (),
        notes=(
            *notes_of_round(row),
            *note_of_names(args.get("mapping")),
            "clients get it with the next round; their optimizers are cleared",
            "earlier rounds stay in the store as long as it keeps them",
        ),
        is_destructive=True,
    )


def _verify(_run: RunDir, args: dict[str, Any], _standing: Standing) -> _Effect:
    what = args.get("path") or args.get("checkpoint") or "the newest checkpoint"
    return _Effect(
        f"have the trainer verify {what}",
        reads=(f"{what}: every byte, on rank 0",),
        writes=("checkpoints/verified.jsonl: what was found",),
        notes=("training waits; the key v reads it here, beside training",),
    )


def _pin(_run: RunDir, args: dict[str, Any], _standing: Standing) -> _Effect:
    return _Effect(
        f"pin {args['checkpoint']}",
        writes=("checkpoints/verified.jsonl: that retention never removes it",),
    )


def _unpin(_run: RunDir, args: dict[str, Any], _standing: Standing) -> _Effect:
    return _Effect(
        f"unpin {args['checkpoint']}",
        writes=("checkpoints/verified.jsonl: that retention may have it",),
        loses=("an old one goes with the next save: nothing brings it back",),
        is_destructive=True,
    )


def _repair(run: RunDir, args: dict[str, Any], _standing: Standing) -> _Effect:
    node = args["node"]
    store_path(run, node)
    return _Effect(
        f"repair the chunk store of {node}",
        reads=("chunks/: the stores of the other nodes, every byte checked",),
        writes=(f"chunks/{node}: the chunks that are damaged or missing",),
    )


def _stacks(_run: RunDir, args: dict[str, Any], _standing: Standing) -> _Effect:
    ranks = args.get("ranks")
    whose = "every process" if ranks is None else f"ranks {units.rank_ranges(ranks)}"
    return _Effect(
        f"write the Python stacks of {whose}",
        writes=("stacks/: appended, one file per process",),
        notes=("training does not stop; the pane of barriers shows them",),
    )


def _profile(_run: RunDir, args: dict[str, Any], standing: Standing) -> _Effect:
    steps = int(args.get("steps", 5))
    took = ""
    if standing.step_ns is not None:
        took = f", {units.duration(steps * standing.step_ns)} without it"
    return _Effect(
        f"profile the next {steps} steps",
        writes=("profiles/: a table and a trace of rank 0",),
        notes=(f"these steps take longer{took}; open the trace in ui.perfetto.dev",),
    )


_EFFECTS: dict[str, Callable[[RunDir, dict[str, Any], Standing], _Effect]] = {
    "checkpoint-now": _save,
    "stop": _stop,
    "pause": _pause,
    "continue": _continue,
    "resume": _resume,
    "restore": _restore,
    "verify": _verify,
    "pin": _pin,
    "unpin": _unpin,
    "repair": _repair,
    "stacks": _stacks,
    "profile": _profile,
}
