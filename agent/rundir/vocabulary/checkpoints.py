"""A checkpoint's life: written, published, verified, loaded, refused, retired.

A checkpoint is named by its directory, a digest is its manifest's.
"""

from agent.rundir.vocabulary.event import Event


class CheckpointSaving(Event, frozen=True, tag_field="kind", tag="checkpoint_saving"):
    """Rank 0 began to write a checkpoint."""

    checkpoint: str
    reason: str


class CheckpointPublished(
    Event, frozen=True, tag_field="kind", tag="checkpoint_published"
):
    """The checkpoint has its final name, durably."""

    checkpoint: str
    digest: str
    """Of its manifest."""
    size_bytes: int
    serialize_ns: int | None = None
    """Turn the state into bytes. The five phases follow on one another."""
    write_ns: int | None = None
    """Hand the bytes to the file system."""
    digest_ns: int | None = None
    """Wait for their digest, which is made beside the writing."""
    fsync_ns: int | None = None
    publish_ns: int | None = None
    """Manifest, rename and directory fsync."""


class CheckpointVerified(
    Event, frozen=True, tag_field="kind", tag="checkpoint_verified"
):
    """The bytes on disk were read back and compared."""

    checkpoint: str
    digest: str | None
    state: str
    """A verdict, e.g. `sound` or `damaged`."""
    level: str
    verify_ns: int
    by: str
    """`save`, `load`, or the operator."""


class CheckpointLoaded(Event, frozen=True, tag_field="kind", tag="checkpoint_loaded"):
    """Every part of this rank's state came from the checkpoint."""

    checkpoint: str
    digest: str
    load_ns: int
    resumed_step: int | None = None


class CheckpointRefused(Event, frozen=True, tag_field="kind", tag="checkpoint_refused"):
    """A checkpoint was not saved, or not loaded, and why."""

    checkpoint: str
    reason: str


class CheckpointPruned(Event, frozen=True, tag_field="kind", tag="checkpoint_pruned"):
    """Retention removed a checkpoint."""

    checkpoint: str
    freed_bytes: int


class CheckpointSuperseded(
    Event, frozen=True, tag_field="kind", tag="checkpoint_superseded"
):
    """A resume from further back put this checkpoint on an abandoned branch."""

    checkpoint: str
    renamed_to: str


class DiskLow(Event, frozen=True, tag_field="kind", tag="disk_low"):
    """Fewer than three checkpoints fit on the disk, or none did."""

    free_bytes: int
    checkpoint_bytes: int
