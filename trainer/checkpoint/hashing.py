"""A file that hashes what is written into it."""

from typing import BinaryIO

import blake3


class HashingFile:
    """What `torch.save` is given in place of a path.

    Its archive writer only appends, so that the bytes pass in order. An error
    of the disk is kept: torch replaces it by one of its own that has no errno.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Hash everything from here on; `file` is at its beginning."""
        self._file = file
        self._hasher = blake3.blake3()
        self.num_bytes = 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Hash and pass on; returns the number of bytes, which is all of them."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hasher.update(data)
        self.num_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Pass what is buffered on to the system."""
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise

    @property
    def digest(self) -> str:
        """`blake3:<hex>` of everything that was written."""
        return f"blake3:{self._hasher.hexdigest()}"
