"""What a verification has found so far: findings, and the worst state of them.

A file with a million differences is one verdict with the first hundred of
them and a count, so that memory and screen stay bounded.
"""

from dataclasses import dataclass, field

from agent.rundir.verify.text import MAX_PATH_CHARACTERS, plural, visible
from agent.rundir.verify.verdict import Finding, State

_MAX_FINDINGS = 100


@dataclass
class Outcome:
    """Findings about one path; starts out sound."""

    format: str = "unknown"
    state: State = State.SOUND
    num_bytes: int = 0
    hint: str | None = None
    """What helps, where that is known better than by the state."""
    findings: list[Finding] = field(default_factory=list)
    num_left_out: int = 0
    """Findings beyond the first hundred."""

    def add(
        self,
        state: State,
        file: str,
        message: str,
        *,
        record: bytes | str | None = None,
        tensor: str | None = None,
        offset: int | None = None,
        differs: tuple[str, str] | None = None,
    ) -> None:
        """Add a finding and let the state become at least as bad as `state`.

        Args:
            state: `sound` for a remark that changes nothing.
            file: as findings call it.
            message: lower case, values in backticks, no full stop.
            record: without its root folder.
            tensor: path of the tensor in the saved state.
            offset: in the file, in bytes.
            differs: what was expected and what was found.
        """
        if state.severity > self.state.severity:
            self.state = state
        expected, found = differs or (None, None)
        finding = Finding(
            file=visible(file, MAX_PATH_CHARACTERS),
            message=message,
            record=None if record is None else visible(record),
            tensor=None if tensor is None else visible(tensor),
            offset=offset,
            expected=expected,
            found=found,
        )
        self._keep(finding)

    def take(self, other: "Outcome") -> None:
        """Add everything that another outcome found, its format excepted."""
        if other.state.severity > self.state.severity:
            self.state = other.state
        for finding in other.findings:
            self._keep(finding)
        self.num_left_out += other.num_left_out
        self.num_bytes += other.num_bytes

    def all_findings(self) -> tuple[Finding, ...]:
        """Return the findings, with a last one that counts those left out."""
        if not self.num_left_out:
            return tuple(self.findings)
        more = Finding(
            file=self.findings[-1].file,
            message=f"{plural(self.num_left_out, 'more finding')} not listed",
        )
        return (*self.findings, more)

    def _keep(self, finding: Finding) -> None:
        if len(self.findings) < _MAX_FINDINGS:
            self.findings.append(finding)
        else:
            self.num_left_out += 1
