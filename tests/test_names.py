"""Names that are taken here are taken by MLflow and the disk as well."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tracking.conftest import Server
from trainer import names

NAMES = st.text(max_size=210) | st.text(
    st.characters(categories=("L", "N"), include_characters="-_. "), max_size=210
)


def taken(check: Callable[[str], str], name: str) -> bool:
    try:
        return check(name) == name
    except ValueError:
        return False


@settings(deadline=None)  # imports
@given(NAMES)
@example("x" * 200)
def test_a_models_name_is_taken_by_registry_and_logged_models(name: str) -> None:
    from mlflow.utils import validation

    if taken(names.model_name, name):
        validation._validate_logged_model_name(name)
        validation._validate_model_name(name)


@settings(deadline=None)  # imports
@given(NAMES)
@example("x" * 200)
def test_an_experiments_name_is_taken_by_mlflow_and_names_one_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    from mlflow.utils import validation

    if taken(names.experiment_name, name):
        validation._validate_experiment_name(name)
        folder = tmp_path_factory.mktemp("artifacts")
        (folder / name).mkdir()
        assert [path.name for path in folder.iterdir()] == [name]


@settings(deadline=None)  # imports
@given(NAMES)
@example("a" * 200)
def test_a_runs_name_names_one_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    if taken(names.folder_name, name):
        folder = tmp_path_factory.mktemp("runs")
        (folder / f"find-lr-{name}-0123456789").mkdir()
        assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("name", ["resnet50-imagenet", "ResNet_50", "сеть-1", "-x", "n" * 200])
def test_usual_names_are_taken(name: str) -> None:
    assert taken(names.model_name, name)
    assert taken(names.folder_name, name)


@pytest.mark.parametrize(
    "name", ["a.b", "a/b", "a:b", "..", "", " ", "a b", "a\nb", "a%41", "x" * 300, "a#1", "\udce9"]
)
def test_a_models_name_that_mlflow_or_an_address_would_not_take_is_refused(name: str) -> None:
    assert not taken(names.model_name, name)


@pytest.mark.parametrize("name", ["..", ".x", "a/b", "", "a\nb", "a\u2028b", "\udce9", "x" * 201])
def test_a_runs_name_that_leads_elsewhere_or_cannot_be_shown_is_refused(name: str) -> None:
    assert not taken(names.folder_name, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["сеть-1", "-x", "ﬁ", "n" * 200])
def test_a_server_takes_such_names(server: Server, name: str) -> None:
    from trainer.tracking._server import connect

    client = connect(server.uri)
    client.create_registered_model(names.model_name(name))
    assert client.get_registered_model(name).name == name
    assert client.get_experiment_by_name(name) is None
    experiment = client.create_experiment(names.experiment_name(name.strip("-")))
    logged = client.create_logged_model(experiment, name=name)
    assert client.get_logged_model(logged.model_id).name == name
