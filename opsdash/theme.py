"""Choose colours and glyphs that the terminal at hand can show.

The states stay apart for every common colour vision (a test simulates them),
and no meaning rests on colour: each state has a word and a mark too. Colours
are given as the variables that Textual's own style sheets use, so widgets name
a meaning, `$text-error`, and never a colour.
"""

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from textual.scrollbar import ScrollBarRender
from textual.theme import Theme

from opsdash.glyphs import ASCII, UNICODE, Glyphs


class PlainScrollBar(ScrollBarRender):
    """A scroll bar of whole cells: no block glyphs, fewer bytes while moving.

    Give it to `textual.scrollbar.ScrollBar.renderer` before the app runs.
    """

    VERTICAL_BARS: ClassVar[list[str]] = [" "] * 8
    HORIZONTAL_BARS: ClassVar[list[str]] = [" "] * 8


class Appearance(NamedTuple):
    """How to draw on one terminal."""

    theme: str
    """The name of one of `THEMES`."""
    glyphs: Glyphs
    ansi_color: bool | None
    """For `App(ansi_color=…)`: decides what Textual does about `NO_COLOR`."""


def appearance(
    environ: Mapping[str, str],
    *,
    theme: str | None = None,
    ascii_only: bool = False,
    encoding: str | None = "utf-8",
) -> Appearance:
    """Choose a theme and glyphs for the terminal that `environ` describes.

    `theme` is the operator's wish; a name that does not exist is no wish.
    Without it, only a terminal that announces true colour gets it: over plain
    ssh 256 colours are all that is known, and the terminal's own sixteen look
    better than an approximation. `NO_COLOR` (https://no-color.org) beats all.
    `encoding` is that of stdout.
    """
    plain = ascii_only or not _is_utf8(encoding) or environ.get("TERM") == "linux"
    glyphs = ASCII if plain else UNICODE
    if "NO_COLOR" in environ:
        return Appearance("mono", glyphs, ansi_color=True)
    if theme is None or theme not in THEMES:
        shade = "light" if _is_light(environ) else "dark"
        theme = shade if _has_true_color(environ) else f"ansi-{shade}"
    return Appearance(theme, glyphs, ansi_color=None)


def _is_utf8(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").replace("_", "") == "utf8"


def _has_true_color(environ: Mapping[str, str]) -> bool:
    announced = environ.get("COLORTERM", "").strip().lower()
    return announced in {"truecolor", "24bit"} or environ.get("TERM", "").endswith(
        "-direct"
    )


def _is_light(environ: Mapping[str, str]) -> bool:
    # rxvt, Konsole and others set "foreground;background" as ANSI numbers.
    return environ.get("COLORFGBG", "").rpartition(";")[2] in {"7", "15"}


def _true_color(name: str, *, dark: bool, colors: Mapping[str, str]) -> Theme:
    muted, cursor = colors["muted"], colors["cursor"]
    names = ("primary", "secondary", "accent", "success", "warning", "error")
    return Theme(
        name=name,
        dark=dark,
        foreground=colors["foreground"],
        background=colors["background"],
        surface=colors["background"],
        panel=colors["panel"],
        primary=colors["primary"],
        secondary=colors["secondary"],
        accent=colors["accent"],
        success=colors["success"],
        warning=colors["warning"],
        error=colors["error"],
        variables={
            # Textual would tint these towards the text, and closer together.
            **{f"text-{each}": colors[each] for each in names},
            "text-muted": muted,
            "text-disabled": muted,
            "foreground-muted": muted,
            "block-cursor-background": cursor,
            "block-cursor-foreground": colors["foreground"],
            "block-cursor-blurred-background": colors["panel"],
            "footer-key-foreground": colors["primary"],
            "scrollbar": muted,
            "scrollbar-background": colors["panel"],
        },
    )


def _ansi(
    name: str,
    *,
    dark: bool,
    variables: Mapping[str, str],
    primary: str = "ansi_blue",
    secondary: str = "ansi_magenta",
    warning: str = "ansi_yellow",
) -> Theme:
    ground = "ansi_default"
    return Theme(
        name=name,
        ansi=True,
        dark=dark,
        foreground=ground,
        background=ground,
        surface=ground,
        panel=ground,
        boost=ground,
        primary=primary,
        secondary=secondary,
        accent="ansi_cyan",
        success="ansi_green",
        warning=warning,
        error="ansi_red",
        variables={
            "footer-key-foreground": primary,
            "border": primary,
            "block-cursor-blurred-text-style": "underline",
            "input-cursor-text-style": "reverse",
            "text-muted": ground,
            "ansi-background": ground,
            "ansi-foreground": ground,
            **variables,
        },
    )


_DARK = _true_color(
    "dark",
    dark=True,
    colors={
        "foreground": "#d8dee6",
        "background": "#12161c",
        "panel": "#222a35",
        "cursor": "#2f4a75",
        "muted": "#8591a0",
        "primary": "#7ba7ff",
        "secondary": "#f26cc4",
        "accent": "#b07bff",
        "success": "#4fd1b0",
        "warning": "#f2dc3c",
        "error": "#ff6433",
    },
)
_LIGHT = _true_color(
    "light",
    dark=False,
    colors={
        "foreground": "#1c2128",
        "background": "#fbfbf8",
        "panel": "#e6e8ea",
        "cursor": "#c3d7f5",
        "muted": "#67707d",
        "primary": "#0b4fb3",
        "secondary": "#cb2a93",
        "accent": "#8436e0",
        "success": "#006f6a",
        "warning": "#857300",
        "error": "#a01800",
    },
)
_ANSI_DARK = _ansi(
    "ansi-dark",
    dark=True,
    primary="ansi_bright_blue",  # the other blue is hardly to be read on black
    variables={
        "block-cursor-foreground": "ansi_black",
        "block-cursor-background": "ansi_white",
    },
)
_ANSI_LIGHT = _ansi(
    "ansi-light",
    dark=False,
    secondary="ansi_bright_magenta",
    warning="ansi_magenta",  # no yellow can be read on white, a bold one least
    variables={
        "block-cursor-foreground": "ansi_bright_white",
        "block-cursor-background": "ansi_blue",
    },
)
_MONO = _ansi(
    "mono",
    dark=True,
    variables={
        "block-cursor-foreground": "ansi_default",
        "block-cursor-background": "ansi_default",
        "block-cursor-text-style": "reverse",
    },
)

THEMES: Mapping[str, Theme] = {
    theme.name: theme for theme in (_DARK, _LIGHT, _ANSI_DARK, _ANSI_LIGHT, _MONO)
}
"""For `App.register_theme`, by the name that `--theme` takes."""


def next_theme(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the theme after this one; None where the terminal wants no colours."""
    if "NO_COLOR" in environ:
        return None
    names = [theme for theme in THEMES if theme != _MONO.name]
    place = names.index(name) + 1 if name in names else 0
    return names[place % len(names)]
