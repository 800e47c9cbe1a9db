"""How a process of ours begins: what its libraries must not do, and how one of us starts another. Needs no library.

`import trainer` sets the switches, whoever does it: the command, a child, an image, a notebook.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
import tempfile
from pathlib import Path

# Read when the library is imported, so they are in the environment before; what the user set wins.
SWITCHES = {
    # Its Linux wheels write a device id below the home folder and look up a name as they are imported.
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",  # prices of language models, fetched from GitHub
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # give up within seconds
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "DO_NOT_TRACK": "1",  # the convention of consoledonottrack.com
}

MAIN = Path(__file__).resolve().with_name("__main__.py")


def set_switches() -> None:
    """Put `SWITCHES` into the environment of this process and its children."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)


def spare_libraries() -> None:
    """Keep the garbage collector off the objects of libraries, which stay to the end; call it before they are imported.

    torch, DALI and MLflow make 600,000 of them. To look through all again and again while they are made, and once more
    as the process ends, takes a third of the CPU time of importing them. Young objects are collected as ever.
    """
    gc.set_threshold(*gc.get_threshold()[:2], 1000)
    atexit.register(gc.freeze)  # called last, after DALI's own, which frees pipelines with their threads


def import_matplotlib() -> None:
    """Import it so that it leaves no list of fonts below the home folder; a folder that the user set wins."""
    if "matplotlib" in sys.modules or "MPLCONFIGDIR" in os.environ:
        return
    with tempfile.TemporaryDirectory(prefix="trainer-") as os.environ["MPLCONFIGDIR"]:
        importlib.import_module("matplotlib.font_manager")
    del os.environ["MPLCONFIGDIR"]


def safe_path() -> dict[str, str]:
    """What a child's environment needs so that its modules, and its children's, do not come from the current folder.

    An empty part of PYTHONPATH, as `export PYTHONPATH=$PYTHONPATH:/mine` makes it, means that folder as well.
    """
    named = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(named)}


def child_command(*arguments: str) -> list[str]:
    """The command line of `trainer ARGUMENTS` as a child.

    By its path and with -P: `-m trainer` would take a trainer.py, mlflow.py or random.py of the current folder.
    """
    return [sys.executable, "-P", str(MAIN), *arguments]
