"""docs/aws.md: its commands, from top to bottom, in one account."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatchcase
from typing import Any

import pytest
from botocore import xform_name

from tests.cloud.conftest import ROOT, Cloud, instances
from tests.cloud.stand_in import StandIn

PAGE = (ROOT / "docs" / "aws.md").read_text().replace("BUCKET", "mine")
COMMANDS = [shlex.split(line)[1:] for line in re.findall(r"^    \./scripts/cloud .*$", PAGE, re.MULTILINE)]
# The checkout of a test may have no origin, and nobody is here to agree.
CLONE = ["--repository", "https://example.org/me/trainer"]
ANSWERS = {
    "check": [],
    "data": [*CLONE, "--yes"],
    "up": [*CLONE, "--revision", "abc123", "--yes"],
    "status": [],
    "ui": ["--print"],
    "down": ["--yes"],
}
READY = "trainer: state=ready starts=1 hours=2.31 images=1331167\r\n"
FINISHED = "trainer: state=finished starts=2 hours=9.80 epoch=18 epochs=18 top1=0.7613\r\n"


def test_the_page_leads_from_an_empty_account_to_a_trained_model_and_to_nothing_left(
    cloud: Cloud, aws: StandIn, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = " ".join(step for step, *_ in COMMANDS)
    assert steps == "check data data data up up status ui down down"
    for secret in ("HF_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.setenv(secret, "0123456789abcdef")
    told = []

    def end_of_the_preparation(operation: str, form: dict[str, str]) -> None:
        machines = instances(ec2) if operation == "GetConsoleOutput" else []
        if [one["State"]["Name"] for one in machines] == ["running"] and not aws.console:
            aws.console = READY
            ec2.stop_instances(InstanceIds=[machines[0]["InstanceId"]])

    for number, (step, *arguments) in enumerate(COMMANDS):
        aws.hook = end_of_the_preparation if number == 1 else lambda operation, form: None
        # Another source for the same data set is not looked at where there is one.
        other = ["--name", "other", "--dry-run"] if step == "data" and number > 1 else []
        recipe = arguments.pop(0) if step == "up" else ""
        code, said = cloud(step, *arguments, *ANSWERS[step], *other, recipe=recipe)
        told.append(said)

        assert code == 0, f"{step} {arguments}: {said}"
        if "--dry-run" in [*arguments, *other]:
            assert "an hour" in said
            assert instances(ec2) == []
        if step == "up" and "--dry-run" not in arguments:
            aws.console = FINISHED

    check, data, _, _, _, up, status, ui, down, nothing = told
    assert "All G and VT Spot Instance Requests" in check
    assert "it may do in AWS: ssm:GetParameter\n" in data
    assert "is completed; next: ./scripts/cloud up RECIPE" in data
    assert "g5.2xlarge spot instance" in up
    assert "finished, epoch 18 of 18, top-1 76.13%" in status
    assert "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning as long" in ui
    assert "snap-" in down
    assert "snap-" in nothing
    assert (instances(ec2), ec2.describe_volumes()["Volumes"]) == ([], [])
    assert ec2.describe_snapshots(Filters=[{"Name": "tag:Project", "Values": ["trainer"]}])["Snapshots"] == []


def test_the_page_lists_each_right_that_a_step_takes() -> None:
    from botocore.session import get_session

    listed = re.findall(
        r"`([a-z0-9]+):([A-Za-z*]+)`", PAGE.partition("### The rights")[2].partition("## ")[0]
    )
    code = "".join(path.read_text() for path in (ROOT / "trainer" / "cloud").glob("*.py"))
    for service in ("ec2", "iam", "ssm", "service-quotas"):
        named = [name for one, name in listed if one == service.replace("-", "")]
        for operation in get_session().get_service_model(service).operation_names:
            called = re.search(rf"(?:\.|\"){xform_name(operation)}(?:\(|\")", code)
            assert not called or any(fnmatchcase(operation, name) for name in named), f"{service}:{operation}"
