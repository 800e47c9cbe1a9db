"""The run's journal, its way to MLflow, and the model registry. MLflow is imported here only, and late."""

from trainer.tracking._journal import (
    DatasetInfo,
    Ending,
    Journal,
    NullLog,
    Point,
    RunHistory,
    RunLog,
    read_journal,
)
from trainer.tracking._registry import (
    INPUT_NAME,
    OUTPUT_NAME,
    LoadedModel,
    ModelInfo,
    Registered,
    Sample,
    has_saved_model,
    load,
    register,
    save_model,
)
from trainer.tracking._server import check_reachable, tracking_uri
from trainer.tracking._sync import BackgroundSync, RunRef, read_run_ref, sync

__all__ = [
    "INPUT_NAME",
    "OUTPUT_NAME",
    "BackgroundSync",
    "DatasetInfo",
    "Ending",
    "Journal",
    "LoadedModel",
    "ModelInfo",
    "NullLog",
    "Point",
    "Registered",
    "RunHistory",
    "RunLog",
    "RunRef",
    "Sample",
    "check_reachable",
    "has_saved_model",
    "load",
    "read_journal",
    "read_run_ref",
    "register",
    "save_model",
    "sync",
    "tracking_uri",
]
