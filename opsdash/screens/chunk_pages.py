"""The rows of a round that are or were in sight, read beside the screen.

A row that is asked for and not here yet is wished for; the table is drawn again
when it came. Only so many pages are kept, however far is scrolled.
"""

from collections import OrderedDict
from collections.abc import Hashable

from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.chunks.records import ChunkRow
from opsdash.operations.store_reading import StoreReading

PAGE_ROWS = 64
_MAX_PAGES = 64


class ChunkPages:
    """Pages of the chunks of one round."""

    def __init__(self, reading: StoreReading, round_num: int) -> None:
        self._reading, self._round_num = reading, round_num
        self._pages: OrderedDict[int, list[ChunkRow]] = OrderedDict()

    def get(self, chunk_id: int) -> ChunkRow | None:
        """Return a chunk; None: it is being read, or is gone."""
        number = chunk_id // PAGE_ROWS
        page = self._pages.get(number)
        if page is None:
            self._wish(number)
            return None
        return next((row for row in page if row.chunk_id == chunk_id), None)

    def is_gone(self, chunk_id: int) -> bool:
        """Whether a chunk was looked for and is not in the store any more."""
        return chunk_id // PAGE_ROWS in self._pages and self.get(chunk_id) is None

    def take(self, what: Hashable, answer: object) -> None:
        """Keep a page that was wished for; one that cannot be read is empty."""
        match what:
            case ("chunks", self._round_num, int(number)):
                self._pages[number] = answer if isinstance(answer, list) else []
                if len(self._pages) > _MAX_PAGES:
                    self._pages.popitem(last=False)

    def _wish(self, number: int) -> None:
        round_num = self._round_num

        def read(reader: ChunkStoreReader) -> list[ChunkRow]:
            return reader.chunks(round_num, number * PAGE_ROWS, PAGE_ROWS)

        self._reading.ask(("chunks", round_num, number), read)
