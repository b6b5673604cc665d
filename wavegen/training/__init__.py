"""Training: one loop for any model, on one CPU or on many GPUs."""

from wavegen.training.checkpoint import newest_checkpoint, read_checkpoint
from wavegen.training.fit import fit
from wavegen.training.settings import lr_at

__all__ = ["fit", "lr_at", "newest_checkpoint", "read_checkpoint"]
