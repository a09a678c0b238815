"""Verdicts as a test wants them, without bytes that were looked at."""

from agent.rundir.verify.verdict import Finding, Level, State, Verdict


def verdict(
    state: State = State.SOUND,
    *,
    path: str = "model.pt",
    level: Level = Level.CONTENT,
    num_bytes: int = 1,
) -> Verdict:
    """A verdict of a path; one that is not sound has a finding."""
    finding = Finding(file=path, message="so it is", offset=7)
    return Verdict(
        path=path,
        state=state,
        level=level,
        format="checkpoint",
        findings=() if state is State.SOUND else (finding,),
        num_bytes=num_bytes,
        elapsed_ns=1,
        digest=None,
        advice="nothing to do",
    )
