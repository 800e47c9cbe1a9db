"""`migrate`: it alone makes and upgrades the schema, before any server starts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.stack.conftest import MARKS, Stack

pytestmark = MARKS

OLD = "acf3f17fdcc7"  # of MLflow 2.9, December 2023: before traces, logged models and workspaces
MAKE_OLD = f"""
import os
from alembic.command import upgrade
from sqlalchemy import create_engine
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base

url = "postgresql+psycopg2://mlflow@postgres:5432/mlflow"
Base.metadata.create_all(create_engine(url))
upgrade(_get_alembic_config(url), "{OLD}")
"""
OLD_RUN = """
INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time)
VALUES (7, 'resnet50', 'mlflow-artifacts:/7', 'active', 1, 1);
INSERT INTO runs (run_uuid, name, user_id, source_type, source_name, entry_point_name, status, start_time, end_time,
  lifecycle_stage, artifact_uri, experiment_id)
VALUES (repeat('a', 32), 'of 2023', 'ana', 'LOCAL', '', '', 'FINISHED', 1, 2,
  'active', 'mlflow-artifacts:/7/a/artifacts', 7);
INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)
VALUES ('eval/top1', 0.25, 2, 3, false, repeat('a', 32));
INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
VALUES ('eval/top1', 0.25, 2, 3, false, repeat('a', 32));
"""
ASK = 'from urllib.request import urlopen; print(urlopen("http://localhost:5000/api/2.0/mlflow/experiments/search?max_results=1").status)'


@pytest.fixture
def empty(stack: Stack, tmp_path: Path) -> Iterator[Stack]:
    """A project that nobody has started yet."""
    empty = stack.sibling("new", tmp_path)
    yield empty
    empty.down()


def test_a_database_of_an_older_mlflow_is_upgraded_and_its_runs_are_still_there(empty: Stack) -> None:
    from mlflow import MlflowClient

    empty.compose("up", "--detach", "--wait", "postgres")
    empty.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "migrate", "-c", MAKE_OLD)
    empty.sql(OLD_RUN)
    assert empty.sql("SELECT version_num FROM alembic_version") == [OLD]

    empty.compose("run", "--rm", "--no-deps", "-T", "migrate")
    (upgraded,) = empty.sql("SELECT version_num FROM alembic_version")
    assert upgraded != OLD

    empty.compose("up", "--detach", "--wait", "mlflow")
    client = MlflowClient(empty.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("resnet50").experiment_id])
    assert (run.info.run_name, run.info.status) == ("of 2023", "FINISHED")
    assert run.data.metrics == {"eval/top1": 0.25}
    assert [point.step for point in client.get_metric_history(run.info.run_id, "eval/top1")] == [3]

    # Back to an older image: neither the server nor migrate works on what it does not know.
    empty.compose("stop", "mlflow")
    empty.sql("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    for service, says in {"mlflow": "expected " + upgraded, "migrate": "ffffffffffff"}.items():
        refused = empty.compose("run", "--rm", "--no-deps", "-T", service, check=False)
        assert refused.returncode != 0
        assert says in refused.stdout
    assert empty.sql("SELECT count(*) FROM runs") == ["1"]


def test_three_servers_at_once_start_on_an_empty_database(empty: Stack, tmp_path: Path) -> None:
    (tmp_path / "compose.scale.yaml").write_text("services: {mlflow: {ports: !reset []}}\n")
    scaled = replace(empty, files=(*empty.files, str(tmp_path / "compose.scale.yaml")))
    scaled.compose("up", "--detach", "--wait", "--scale", "mlflow=3", "mlflow")

    servers = scaled.compose("ps", "--quiet", "mlflow").stdout.split()
    assert len(servers) == 3
    for server in servers:
        # each by its own address: the health check asks `mlflow`, which is any of them
        said = subprocess.check_output(["docker", "exec", server, "python", "-c", ASK], text=True)
        state = subprocess.check_output(
            ["docker", "inspect", "--format", "{{.State.Health.Status}} {{.RestartCount}}", server], text=True
        )
        assert (said.strip(), state.strip()) == ("200", "healthy 0")
