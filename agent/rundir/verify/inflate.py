"""The CRC-32 of a deflated record, as TorchScript archives have for their code."""

import zlib

from agent.rundir.verify.crc import crc32
from agent.rundir.verify.scan import Extent
from agent.rundir.verify.source import Source
from agent.rundir.verify.watch import Watch

_BLOCK_BYTES = 1 << 20


def inflated_crc(source: Source, extent: Extent, size: int, watch: Watch) -> int | None:
    """Return the CRC-32 of what a deflated record holds.

    Memory stays at two blocks however much the record claims to hold.

    Args:
        source: the file.
        extent: the deflated bytes in it.
        size: how many bytes they must become.
        watch: is asked between blocks.

    Returns:
        None if the bytes are not deflated data that become `size` bytes.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    crc = num_bytes = 0
    position, waiting = extent.start, b""
    try:
        while not inflater.eof and num_bytes <= size:
            if not waiting:
                num_read = min(_BLOCK_BYTES, extent.stop - position)
                waiting = source.read(position, num_read)
                position += num_read
            data = inflater.decompress(waiting, _BLOCK_BYTES)
            if not data and not waiting:
                return None
            waiting = inflater.unconsumed_tail
            crc = crc32(data, crc)
            num_bytes += len(data)
            watch.check()
    except zlib.error:
        return None
    is_whole = inflater.eof and not inflater.unused_data and position == extent.stop
    return crc if is_whole and num_bytes == size else None
