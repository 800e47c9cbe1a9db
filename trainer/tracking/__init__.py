"""The run's journal, its way to MLflow, and the model registry. MLflow is imported here only, and late."""

from trainer.tracking._journal import (
    DatasetFacts,
    Ending,
    Journal,
    Point,
    RunHistory,
    RunLog,
    Silent,
    read_journal,
)
from trainer.tracking._registry import (
    INPUT_NAME,
    OUTPUT_NAME,
    LoadedModel,
    ModelFacts,
    Registered,
    Sample,
    has_saved_model,
    load,
    register,
    save_model,
)
from trainer.tracking._server import check_reachable, tracking_uri
from trainer.tracking._shipping import RunPlace, Shipper, read_place, sync

__all__ = [
    "INPUT_NAME",
    "OUTPUT_NAME",
    "DatasetFacts",
    "Ending",
    "Journal",
    "LoadedModel",
    "ModelFacts",
    "Point",
    "Registered",
    "RunHistory",
    "RunLog",
    "RunPlace",
    "Sample",
    "Shipper",
    "Silent",
    "check_reachable",
    "has_saved_model",
    "load",
    "read_journal",
    "read_place",
    "register",
    "save_model",
    "sync",
    "tracking_uri",
]
