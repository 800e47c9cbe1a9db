"""The run's journal, its sync to MLflow, and the model registry. MLflow is imported here only, and late."""

from trainer.tracking._background_sync import BackgroundSync
from trainer.tracking._bundle import BUNDLE, BUNDLE_LOG, is_bundle_of, log_bundle
from trainer.tracking._candidate import CANDIDATE
from trainer.tracking._child import BackgroundChild, Parent
from trainer.tracking._description import devices_of
from trainer.tracking._find_lr_link import FIND_LR_NAME, FIND_LR_RUN, run_link
from trainer.tracking._history import (
    JOURNAL,
    DatasetInfo,
    Ending,
    Point,
    RunHistory,
    RunInfo,
    read_journal,
)
from trainer.tracking._journal import Journal, JournalHandler, NullLog, RunLog
from trainer.tracking._load_model import LoadedModel, load_model
from trainer.tracking._mlflow_run import (
    PARENT_RUN,
    RunRef,
    local_url,
    read_run_ref,
    run_url,
    runs_url,
    tag_run,
)
from trainer.tracking._origin import Origin, origin_of, run_that_made
from trainer.tracking._progress import BEGUN, MACHINES, PRICE
from trainer.tracking._promote import (
    Promoted,
    promote,
    promote_if_asked,
    record_accuracy,
    rollback,
    version_uri,
)
from trainer.tracking._proof import ProofProcess, Question
from trainer.tracking._registry import REGISTERED, Registered, register, run_folder_of
from trainer.tracking._remote_history import remote_histories
from trainer.tracking._report import REPORT, REPORT_PAGE, send_report
from trainer.tracking._saved_model import ModelInfo, Sample, has_saved_model, save_model
from trainer.tracking._server import check_address, check_reachable, quiet, redact, tracking_uri
from trainer.tracking._sync import RUN_ARTIFACTS, sync
from trainer.tracking._tensorboard import TensorBoardLog
from trainer.tracking._weights import weights_sha256, write_weights

__all__ = [
    "BEGUN",
    "BUNDLE",
    "BUNDLE_LOG",
    "CANDIDATE",
    "FIND_LR_NAME",
    "FIND_LR_RUN",
    "JOURNAL",
    "MACHINES",
    "PARENT_RUN",
    "PRICE",
    "REGISTERED",
    "REPORT",
    "REPORT_PAGE",
    "RUN_ARTIFACTS",
    "BackgroundChild",
    "BackgroundSync",
    "DatasetInfo",
    "Ending",
    "Journal",
    "JournalHandler",
    "LoadedModel",
    "ModelInfo",
    "NullLog",
    "Origin",
    "Parent",
    "Point",
    "Promoted",
    "ProofProcess",
    "Question",
    "Registered",
    "RunHistory",
    "RunInfo",
    "RunLog",
    "RunRef",
    "Sample",
    "TensorBoardLog",
    "check_address",
    "check_reachable",
    "devices_of",
    "has_saved_model",
    "is_bundle_of",
    "load_model",
    "local_url",
    "log_bundle",
    "origin_of",
    "promote",
    "promote_if_asked",
    "quiet",
    "read_journal",
    "read_run_ref",
    "record_accuracy",
    "redact",
    "register",
    "remote_histories",
    "rollback",
    "run_folder_of",
    "run_link",
    "run_that_made",
    "run_url",
    "runs_url",
    "save_model",
    "send_report",
    "sync",
    "tag_run",
    "tracking_uri",
    "version_uri",
    "weights_sha256",
    "write_weights",
]
