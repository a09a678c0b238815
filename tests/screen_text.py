"""Compare what an app shows with a text file that a reviewer can read.

The files lie in `tests/screens`; `UPDATE_SCREENS=1` writes them anew, and the
difference is then read in review like any other.
"""

import os
from pathlib import Path

from textual.app import App

SCREENS = Path(__file__).parent / "screens"


def screen_text(app: App) -> str:
    """Return the characters on the app's screen, trailing blanks cut."""
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text.rstrip() for strip in strips) + "\n"


def assert_screen(app: App, name: str) -> None:
    """Fail unless the app shows what `tests/screens/<name>.txt` holds."""
    path = SCREENS / f"{name}.txt"
    shown = screen_text(app)
    if os.environ.get("UPDATE_SCREENS") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    expected = path.read_text(encoding="utf-8") if path.exists() else "(no such file)"
    # Splitting shows the line that differs instead of two long texts.
    assert shown.split("\n") == expected.split("\n")
