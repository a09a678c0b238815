r"""What a filter matches: a regular expression that is never wrong.

Pure. `!` in front inverts. Small letters match both cases, a capital makes the
case count. A pattern that is not a regular expression, or not yet, is taken
literally, so that typing `(` on the way to `(a|b)` never empties a list with
an error. An empty pattern matches everything.
"""

import re
import warnings
from dataclasses import dataclass

MAX_PATTERN = 500
"""Characters of a pattern that count; nobody types more."""
_MAX_TEXT = 4096


@dataclass(frozen=True)
class Matcher:
    """A compiled filter; call it with a text."""

    pattern: str
    """As it was typed."""
    is_inverse: bool
    is_literal: bool
    """Whether the pattern was no regular expression and is taken literally."""
    _expression: re.Pattern[str] | None

    def __call__(self, text: str) -> bool:
        """Whether the filter lets `text` through; its first 4096 characters count."""
        if self._expression is None:
            return True
        found = self._expression.search(text[:_MAX_TEXT]) is not None
        return found is not self.is_inverse

    @property
    def is_everything(self) -> bool:
        """Whether every text passes, so that nothing need be looked at."""
        return self._expression is None


def matcher(pattern: str, *, is_literal: bool = False) -> Matcher:
    """Compile what an operator typed so far. Never raises.

    Args:
        pattern: As it was typed.
        is_literal: Take it literally, because as an expression it takes too long.
    """
    wanted = pattern[:MAX_PATTERN]
    is_inverse = wanted.startswith("!")
    wanted = wanted.removeprefix("!")
    if not wanted:
        return Matcher(pattern, is_inverse, is_literal=False, _expression=None)
    has_capital = any(character.isupper() for character in wanted)
    flags = re.NOFLAG if has_capital else re.IGNORECASE
    expression = None if is_literal else _compiled(wanted, flags)
    is_literal = expression is None
    if expression is None:
        expression = re.compile(re.escape(wanted), flags)
    return Matcher(pattern, is_inverse, is_literal, expression)


def _compiled(pattern: str, flags: re.RegexFlag) -> re.Pattern[str] | None:
    with warnings.catch_warnings():
        # `[[` will mean something else one day; here it is just half typed.
        warnings.simplefilter("ignore")
        try:
            return re.compile(pattern, flags)
        except (re.error, OverflowError, RecursionError):
            return None
