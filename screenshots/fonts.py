"""Find a monospace font, and say clearly when there is none."""

import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Face(NamedTuple):
    """The font, regular and bold, and the size of a cell in pixels."""

    regular: Font
    bold: Font
    width: int
    height: int


_FONTS = (
    "/usr/share/fonts/truetype/jetbrains-mono/JetBrainsMono-{}.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSansMono{}.ttf",
    "/usr/share/fonts/TTF/DejaVuSansMono{}.ttf",
    "/usr/share/fonts/dejavu-sans-mono-fonts/DejaVuSansMono{}.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationMono-{}.ttf",
    "/System/Library/Fonts/Menlo.ttc",
)


@lru_cache
def load_face(size: int) -> Face:
    """Find a monospace font; say so on stderr when there is none."""
    regular = _font_file(bold=False)
    if regular is None:
        sys.stderr.write(
            "no monospace font found: pictures use Pillow's own, whose letters are"
            " not aligned; on Debian `apt-get install fonts-dejavu-core` helps\n"
        )
        plain = ImageFont.load_default(size)
        return Face(plain, plain, round(size * 0.62), round(size * 1.2))
    font = ImageFont.truetype(str(regular), size)
    bold = ImageFont.truetype(str(_font_file(bold=True) or regular), size)
    ascent, descent = font.getmetrics()
    return Face(font, bold, round(font.getlength("M")), ascent + descent)


def _font_file(*, bold: bool) -> Path | None:
    for pattern in _FONTS:
        for name in ("Bold", "-Bold") if bold else ("Regular", ""):
            path = Path(pattern.format(name))
            if path.is_file():
                return path
    return _fontconfig("monospace:bold" if bold else "monospace")


def _fontconfig(pattern: str) -> Path | None:
    try:
        found = subprocess.run(
            ["fc-match", "-f", "%{spacing} %{file}", pattern],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    spacing, _, file = found.partition(" ")
    # fc-match always answers; 100 is fontconfig's name for monospace.
    return Path(file) if spacing == "100" and Path(file).is_file() else None
