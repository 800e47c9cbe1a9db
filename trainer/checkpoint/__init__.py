"""Checkpoints of a run that are complete or absent."""

from trainer.checkpoint._checkpoints import INTERVAL, KEEP, Checkpoints
from trainer.checkpoint._files import checkpoint_step, list_checkpoints, load_checkpoint, load_state
from trainer.checkpoint._staging import Stateful

__all__ = [
    "INTERVAL",
    "KEEP",
    "Checkpoints",
    "Stateful",
    "checkpoint_step",
    "list_checkpoints",
    "load_checkpoint",
    "load_state",
]
