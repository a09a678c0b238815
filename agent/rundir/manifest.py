"""The manifest of a checkpoint: what its directory must contain.

It is written last, so a directory that has one was complete when it was
published. The digest of the manifest file itself identifies the checkpoint:
ranks agree on it before they load.
"""

from pathlib import Path

import blake3
import msgspec

from agent.rundir.errors import NewerSchemaError, UnreadableFileError
from agent.rundir.layout import MANIFEST_NAME
from agent.rundir.reading import read_regular
from agent.rundir.seal import seal

MANIFEST_SCHEMA = 1
_MAX_MANIFEST_BYTES = 256 << 20


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of the checkpoint."""

    name: str
    """Relative to the checkpoint's directory; never absolute, never `..`."""
    size_bytes: int
    digest: str
    """`blake3:<hex>` or `sha256:<hex>` of the whole file."""


class TensorEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One tensor, found by its path in the saved state."""

    name: str
    """Path in the state, e.g. `model.blocks.0.attn.qkv.weight`."""
    dtype: str
    """torch's name without the prefix: `float32`, `bfloat16` …"""
    shape: tuple[int, ...]
    file: str
    record: str | None = None
    """Record of the zip file that holds its storage, e.g. `data/17`."""


class OptimizerSchema(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the optimizer state must fit before it is loaded."""

    kind: str
    """Class name, e.g. `AdamW`."""
    param_names: tuple[str, ...]
    """In the optimizer's own order, which is how its state is indexed."""
    param_shapes: tuple[tuple[int, ...], ...]
    state_keys: tuple[str, ...]
    step: int | None = None
    """The optimizer's own step counter, where it keeps one."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a checkpoint contains and where it comes from."""

    schema: int
    run_id: str
    attempt: int
    created_ns: int
    """Wall clock, Unix ns."""
    reason: str
    """Why it was saved: `interval`, `final`, `request`, `signal` …"""
    files: tuple[FileEntry, ...]
    step: int | None = None
    """Optimizer steps completed."""
    label_step: int | None = None
    """The step in the name, where it differs from `step` (static-graph save)."""
    epoch: int | None = None
    round_num: int | None = None
    num_samples: int | None = None
    """Global offset: training samples consumed by completed steps."""
    world_size: int | None = None
    parent_digest: str | None = None
    """Digest of the checkpoint that this attempt started from, if any."""
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    tensors: tuple[TensorEntry, ...] = ()
    optimizer: OptimizerSchema | None = None
    has_rng: bool = False
    has_ema: bool = False
    crc32: bool = True
    """Whether torch wrote a CRC-32 per record."""
    torch_version: str | None = None
    python_version: str | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, the manifest not included."""
        return sum(entry.size_bytes for entry in self.files)


_decoder = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as indented JSON, sealed: it is read by people too."""
    return seal(encode_unsealed(manifest))


def encode_unsealed(manifest: Manifest) -> bytes:
    """Return what the seal is made of, and what a manifest without one is."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def manifest_digest(data: bytes) -> str:
    """Return the digest that identifies a checkpoint, of its manifest's bytes."""
    return f"blake3:{blake3.blake3(data).hexdigest()}"


def read_manifest(directory: Path) -> tuple[Manifest, str]:
    """Return a checkpoint's manifest and its digest.

    Raises:
        UnreadableFileError: it is missing, too large, or not a manifest.
        NewerSchemaError: a newer version wrote it.
    """
    path = directory / MANIFEST_NAME
    try:
        data = read_regular(path, _MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise UnreadableFileError(
            f"`{path}` cannot be read: {error.strerror}"
        ) from error
    return parse_manifest(data, path), manifest_digest(data)


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Decode a manifest; `path` is for the error's text only.

    Raises:
        UnreadableFileError: not a manifest.
        NewerSchemaError: a newer version wrote it.
    """
    if len(data) > _MAX_MANIFEST_BYTES:
        raise UnreadableFileError(f"`{path}` has more than {_MAX_MANIFEST_BYTES} bytes")
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema
        if schema > MANIFEST_SCHEMA:
            raise NewerSchemaError(
                f"`{path}` has schema {schema}, this version reads up to "
                f"{MANIFEST_SCHEMA}",
                hint="pip install --upgrade opsdash",
            )
        manifest = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"`{path}` is not a manifest: {error}") from error
    for entry in manifest.files:
        if not is_inside(entry.name):
            raise UnreadableFileError(
                f"`{path}` names a file outside the checkpoint: `{entry.name!a}`"
            )
    return manifest


def is_inside(name: str) -> bool:
    """Whether a relative file name stays below the checkpoint's directory."""
    path = Path(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


class _SchemaOnly(msgspec.Struct):
    schema: int
