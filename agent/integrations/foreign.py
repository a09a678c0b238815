"""What a framework's callback needs: tell steps, hear what an operator asks.

A framework saves and stops by flags of its own, some time after its callback
has returned. So a request is begun when all ranks have agreed on it, and its
outcome told when the framework says that it has saved, or that it ended.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from agent.probes.agree import agree
from agent.probes.pending import PendingRequest
from agent.probes.wording import in_words
from agent.rundir.errors import RunDirError
from agent.session import Agent

KINDS = ("checkpoint-now", "stop")
"""Requests that every framework here can carry out."""


class NotSavedError(RunDirError):
    """The framework ended without doing what it was asked for."""


class ForeignLoop:
    """One rank of a training loop that belongs to somebody else."""

    def __init__(
        self,
        run_dir: str | Path,
        *,
        agree_every: int = 10,
        **attach: Any,  # noqa: ANN401 - Agent.attach checks them
    ) -> None:
        """Keep what `begin` needs.

        Args:
            run_dir: The same on all ranks.
            agree_every: Steps between two agreements on requests (0.25 ms each).
            attach: As `Agent.attach` takes them.
        """
        self.agent: Agent | None = None
        self._run_dir = run_dir
        self._agree_every = agree_every
        self._attach = attach
        self._request: PendingRequest | None = None
        self._obeying: AbstractContextManager[None] | None = None
        self._is_stopping = False

    def begin(self, *, step: int = 0, **attach: Any) -> Agent:  # noqa: ANN401 - as above
        """Attach this rank, and say which requests it takes.

        Raises:
            RunDirError: the run directory is in use, or something else.
        """
        self.agent = Agent.attach(self._run_dir, **{**self._attach, **attach})
        self.agent.begin_at(step)
        self.agent.accept(*KINDS)
        self.agent.phase("training")
        return self.agent

    def step_done(self, step: int, **fields: Any) -> PendingRequest | None:  # noqa: ANN401 - StepDone checks them
        """Tell a step; return what all ranks have agreed to do now.

        Every rank has to call it at the same steps. The request stays open until
        `saved` or `end`.

        Raises:
            RuntimeError: a collective failed.
        """
        assert self.agent is not None, "`begin` comes first"
        self.agent.step_done(step, **fields)
        if self._request is not None:
            return None
        self._request = agree(self.agent, step, every=self._agree_every)
        if self._request is not None:
            self._is_stopping = self._request.kind == "stop"
            self._obeying = self.agent.obeying(self._request)
            self._obeying.__enter__()
        return self._request

    def saved(self) -> None:
        """Tell that a checkpoint is written: what was asked for is done."""
        if self._obeying is not None:
            self._obeying.__exit__(None, None, None)
        self._request = self._obeying = None

    def end(self, error: BaseException | None = None) -> None:
        """Tell how training ended, and detach. Once."""
        agent, self.agent = self.agent, None
        if agent is None:
            return
        self._give_up()
        if error is not None:
            agent.ended("error", error=in_words(error))
        else:
            agent.ended("stopped" if self._is_stopping else "completed")

    def _give_up(self) -> None:
        """Tell that what is still open was not done."""
        obeying, self._obeying = self._obeying, None
        self._request = None
        if obeying is None:
            return
        missing = NotSavedError("training ended before a checkpoint was written")
        try:
            obeying.__exit__(NotSavedError, missing, None)
        except NotSavedError:
            return
