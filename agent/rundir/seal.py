"""Whether a manifest's own bytes are as they were written.

A manifest that carries a seal proves it: the last entry of the JSON object is
a digest of all bytes before it. One without is at least compared with what its
fields encode to, which tells changed names and spacing, not changed values.
"""

import re

import blake3

_SEAL = re.compile(rb',\n "seal": "blake3:([0-9a-f]{64})"\n\}\n\Z')
_CLOSING = b"\n}\n"


def seal(encoded: bytes) -> bytes:
    """Return an encoded manifest with a seal; readers of fields ignore it.

    Raises:
        ValueError: it does not end as `encode_manifest` ends it.
    """
    if not encoded.endswith(_CLOSING):
        raise ValueError("not an encoded manifest")
    body = encoded.removesuffix(_CLOSING)
    digest = blake3.blake3(body).hexdigest()
    return body + b',\n "seal": "blake3:' + digest.encode() + b'"' + _CLOSING


def is_broken(data: bytes) -> bool:
    """Whether a manifest's file carries a seal that does not fit the rest."""
    match = _SEAL.search(data)
    if match is None:
        return False
    return blake3.blake3(data[: match.start()]).hexdigest().encode() != match[1]


def is_as_written(data: bytes, encoded: bytes) -> bool:
    """Whether a manifest's bytes are those that its writer wrote.

    Args:
        data: the file.
        encoded: what its fields encode to, without a seal.
    """
    if _SEAL.search(data) is None:
        return data == encoded
    return not is_broken(data)
