"""A model in any of its forms, shown in a browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from trainer.demo import APP
from trainer.errors import ConfigError, ProcessesFailed
from trainer.export import is_bundle
from trainer.processes import safe_path
from trainer.stop import stop_at_once

ENVIRONMENT = ".venv-demo"  # beside that of the trainer; ./scripts/install-demo makes it


def show_demo(model: str, *, port: int = 7860, runs: Path = Path("runs"), trust: bool = False) -> None:
    """Show `model` in a browser on this machine until a signal ends it.

    Args:
        model: in any of the forms of `resolve_model`; what is no bundle is exported to a temporary one first.
        port: on 127.0.0.1.
        runs: folder of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server.
        trust: take a registered version that `trainer train` has not sealed.

    Raises: ConfigError if gradio is not installed or the port is taken, or what `export_model` raises; Stopped on a
        SIGTERM; ProcessesFailed if the demo ends by itself, having said why.
    """
    python = _python()
    _require_free(port)
    with (
        stop_at_once("the demo leaves nothing behind"),
        tempfile.TemporaryDirectory(prefix="trainer-demo-") as scratch,
    ):
        bundle = Path(model)
        if model.startswith(("models:/", "runs:/")) or not is_bundle(bundle):
            from trainer.run._export import export_model  # imports torch

            bundle = Path(scratch) / "bundle"
            export_model(model, bundle, runs=runs, trust=trust, parity=0)
        environment = {
            "DEMO_HOSTS": "localhost,127.0.0.1",  # no other: a web page could have its own name lead here
            **os.environ,
            **safe_path(),
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": f"{scratch}/uploads",
        }
        app = subprocess.Popen([python, "-P", APP, bundle], env=environment)
        try:
            code = app.wait()
        finally:
            app.terminate()
            app.wait()
    raise ProcessesFailed(code)


def _python() -> Path:
    """An interpreter that has gradio: this one, or that of `ENVIRONMENT`."""
    if find_spec("gradio"):
        return Path(sys.executable)
    python = Path(sys.prefix).with_name(ENVIRONMENT) / "bin" / "python"
    if not python.is_file():
        raise ConfigError(
            "the demo needs gradio, which wants an older Pillow than training, so in an environment of its own; make "
            "it with ./scripts/install-demo, or show an exported bundle with `docker compose up demo`"
        )
    return python


def _require_free(port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"port {port} of 127.0.0.1 cannot be used ({error}); give another with --port"
        ) from None
