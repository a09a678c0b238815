"""Which rows are on the screen and which one is under the cursor.

Pure: positions only. Rows move on the screen as seldom as possible, because
every row that moves is sent again.
"""

from dataclasses import dataclass


@dataclass
class Viewport:
    """A page of rows with a cursor in it."""

    cursor: int = 0
    top: int = 0
    """The first row on the screen."""
    page: int = 1
    """Rows on the screen."""

    def settle(self, length: int, page: int) -> None:
        """Bring cursor and page into `length` rows, `page` of them in sight."""
        self.resize(length, page)
        self.cursor = max(0, min(self.cursor, length - 1))
        # A third of the page may stay empty below the last row: see `follow`.
        self.top = max(0, min(self.top, length - self.page + self.page // 3))
        self._reach_cursor()

    def resize(self, length: int, page: int) -> None:
        """Take another height; no row at its end stays empty then.

        So what is in sight depends on the rows and the height, and not on how
        many layouts led there.
        """
        page = max(1, page)
        if page != self.page:
            self.page = page
            self.cursor = max(0, min(self.cursor, length - 1))
            self.top = max(0, min(self.top, length - page))
            self._reach_cursor()

    def place(self, cursor: int) -> None:
        """The row under the cursor is now at `cursor`: it stays where it is seen."""
        self.top = max(0, self.top + cursor - self.cursor)
        self.cursor = cursor

    def follow(self, length: int) -> None:
        """Put the cursor on the last row; when the page is full, go on by a third.

        The rows above stand still until then, instead of all moving up with
        every new one.
        """
        beyond = length - 1 - (self.top + self.page - 1)
        self.cursor = max(0, length - 1)
        if 0 < beyond <= self.page // 3:
            self.top += self.page // 3
        self._reach_cursor()

    def move(self, cursor: int, length: int) -> None:
        """Put the cursor on a row and bring it into sight."""
        self.cursor = max(0, min(cursor, length - 1))
        self._reach_cursor()

    def scroll(self, rows: int, length: int) -> None:
        """Move the page; the cursor goes along only at its edge."""
        self.top = max(0, min(self.top + rows, length - self.page))
        last = min(self.top + self.page, length) - 1
        self.cursor = max(self.top, min(self.cursor, last))

    def thumb(self, length: int) -> tuple[int, int] | None:
        """Return the half-open rows of the scroll bar's thumb; None if all fits."""
        if length <= self.page:
            return None
        size = max(1, self.page * self.page // length)
        last_top = length - self.page
        start = min(self.top, last_top) * (self.page - size) // last_top
        return start, start + size

    def _reach_cursor(self) -> None:
        if self.cursor < self.top:
            self.top = self.cursor
        elif self.cursor >= self.top + self.page:
            self.top = self.cursor - self.page + 1
