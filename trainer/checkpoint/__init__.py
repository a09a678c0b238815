"""Save, publish, load and retire checkpoints."""
