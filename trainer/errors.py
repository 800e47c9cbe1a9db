"""Everything that can go wrong for a reason the user can mend.

    TrainerError            exit 2: one sentence that says what, where, and what to do
    ├── ConfigError         a recipe, a setting, or settings that do not fit together
    ├── DataError           a data set that is missing, empty or inconsistent
    ├── DeviceError         the asked-for device or number of processes is not there
    │   └── GpuOutOfMemory  the GPU's memory ran out; exit 1 where the next start takes less
    ├── CheckpointError     checkpoints that are damaged or belong to another run
    ├── TrackingError       the MLflow server, a run or a registered model
    │   └── TrackingDown    the server does not answer now
    ├── ExportError         a bundle that cannot be written or differs from its model
    ├── PublishError        the Hugging Face Hub
    ├── CloudError          AWS does not have, allow or answer what was asked for
    ├── MirrorError         the copy of a run that outlives the machine
    └── TrainingDiverged    the loss stopped being a number
    ProcessLost             exit 1: another process ended or is stuck; start again to go on
    ProcessesFailed         the exit code of processes that have said themselves what is wrong
    Stopped                 exit 75: stopped on request, everything saved, start again to go on

What a disk refuses, a name, a right or room, ends in a sentence as well (`trainer.cli`); any other exception is a bug
of ours, or the machine's failure, and keeps its traceback.
"""

from __future__ import annotations

from pathlib import Path


class TrainerError(Exception):
    """Base of all errors that are shown to the user as one sentence."""

    exit_code: int = 2


class ConfigError(TrainerError):
    """A recipe or setting is wrong."""


class DataError(TrainerError):
    """A data set is missing, empty or inconsistent."""


class DeviceError(TrainerError):
    """The requested device or number of processes cannot be had."""


class GpuOutOfMemory(DeviceError):
    """The memory of the GPU ran out in the middle of a run."""

    def __init__(self, message: str, *, exit_code: int = DeviceError.exit_code) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class CheckpointError(TrainerError):
    """A checkpoint is damaged or belongs to another run."""


class TrackingError(TrainerError):
    """MLflow cannot be reached, or does not hold what was asked for."""


class TrackingDown(TrackingError):
    """MLflow does not answer; it may later."""


class ExportError(TrainerError):
    """A bundle cannot be written, or differs from the model it was made from."""


class PublishError(TrainerError):
    """The Hugging Face Hub does not take what is published, or cannot be reached."""


class CloudError(TrainerError):
    """AWS does not have, allow or answer what was asked for."""


class MirrorError(TrainerError):
    """The mirror of a run cannot be used, or belongs to another machine now."""


class TrainingDiverged(TrainerError):
    """The training loss became infinite or not a number."""

    def __init__(self, *, step: int, loss: float, learning_rate: float, saved: str = "") -> None:
        self._facts = {"step": step, "loss": loss, "learning_rate": learning_rate}
        super().__init__(
            f"the training loss became {loss} by step {step} (learning rate {learning_rate:.4g}); {saved}"
            "train again with a lower optimizer.base_lr (--set) or a longer schedule.warmup_epochs"
        )

    def after(self, checkpoint: Path | None) -> TrainingDiverged:
        """The same error, with the path of the newest checkpoint; a state with infinities or NaN is never saved."""
        saved = (
            f"the last good checkpoint is {checkpoint}"
            if checkpoint
            else "there is no checkpoint from before"
        )
        return TrainingDiverged(**self._facts, saved=f"{saved}; ")  # type: ignore[arg-type]


class ProcessLost(TrainerError):
    """Another process ended, or does not answer."""

    exit_code = 1


class ProcessesFailed(TrainerError):
    """The processes that `trainer` started ended with an exit code, and have said why."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(
            f"the processes of this command ended with exit code {exit_code}; the reason stands above"
        )


class Stopped(TrainerError):
    """Training ended early because it was asked to; the state is saved."""

    exit_code = 75


def first_line(error: Exception) -> str:
    """Type and first line of an error, at most 200 characters: what a library says, for a sentence of ours."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:200]
