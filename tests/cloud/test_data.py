"""`trainer cloud data`: from a source to a snapshot, at whatever point it is cut off."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.cloud.conftest import Clients, Cloud, forget, instances, kill_until_done
from tests.cloud.stand_in import CPU_AMI, StandIn
from trainer.cloud import _data

DATA = [
    "data",
    "imagenette --size 320",
    "--name",
    "small",
    "--repository",
    "https://example.org/me/trainer",
    "--yes",
]
READY = "[  812.1] trainer-machine[733]: trainer: state=ready starts=1 hours=0.31 images=13394\r\n"


def end(aws: StandIn, ec2: Any, console: str) -> None:
    """The machine says so, and shuts itself down."""
    ec2.stop_instances(InstanceIds=[instances(ec2)[0]["InstanceId"]])
    aws.console = console


def snapshots(ec2: Any) -> list[dict[str, Any]]:
    return list(ec2.describe_snapshots(Filters=[{"Name": "tag:Project", "Values": ["trainer"]}])["Snapshots"])


def test_a_machine_without_a_gpu_fills_an_empty_volume(cloud: Cloud, aws: StandIn, ec2: Any) -> None:
    code, said = cloud(*DATA, "--gb", "60", "--shorter-side", "256", "--no-wait")

    assert code == 0, said
    (one,) = instances(ec2)
    assert (one["InstanceType"], one["ImageId"]) == ("c6i.2xlarge", CPU_AMI)
    assert sorted(volume["Size"] for volume in ec2.describe_volumes()["Volumes"]) == [40, 60]
    assert (
        ec2.describe_security_groups(GroupNames=["trainer-small"])["SecurityGroups"][0]["IpPermissions"] == []
    )
    assert "IamInstanceProfile.Name" not in aws.last("RunInstances")
    script = base64.b64decode(aws.last("RunInstances")["UserData"]).decode()
    assert "imagenette --size 320" in script
    assert "c6i.2xlarge on demand, and its address" in said
    assert "the snapshot stays: up to $3.00 a month" in said


def test_at_its_end_the_snapshot_is_kept_and_the_rest_taken_down(
    cloud: Cloud, aws: StandIn, ec2: Any
) -> None:
    cloud(*DATA, "--no-wait")
    end(aws, ec2, READY)
    code, said = cloud(*DATA)

    assert code == 0, said
    (kept,) = snapshots(ec2)
    assert {tag["Key"]: tag["Value"] for tag in kept["Tags"]}["Run"] == "small"
    assert kept["VolumeSize"] == 200
    assert (instances(ec2), ec2.describe_volumes()["Volumes"]) == ([], [])
    assert f"--data-snapshot {kept['SnapshotId']}" in said
    before = len(aws.changes)
    assert kept["SnapshotId"] in cloud(*DATA)[1]
    assert len(aws.changes) == before


def test_killed_after_each_change_and_given_again_and_again_it_makes_one_snapshot(
    cloud: Cloud, aws: StandIn, ec2: Any
) -> None:
    cloud(*DATA, "--no-wait")
    end(aws, ec2, READY)
    killed = kill_until_done(aws, lambda: cloud(*DATA)[0])

    assert killed == ["CreateSnapshot", "TerminateInstances", "DeleteSecurityGroup"]
    assert len(snapshots(ec2)) == 1
    assert (instances(ec2), ec2.describe_volumes()["Volumes"]) == ([], [])


def test_a_machine_that_failed_says_why_and_goes_on_when_it_is_asked_again(
    cloud: Cloud, aws: StandIn, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patience:
        patience.setattr(_data, "HOURS", 0)
        assert "takes longer than" in cloud(*DATA)[1]
    end(aws, ec2, "trainer: state=failed starts=1 hours=0.1 reason=the disk is full; give more\x1b[2J\n")
    aws.hook = lambda operation, form: end(aws, ec2, aws.console) if operation == "GetConsoleOutput" else None
    code, said = cloud(*DATA)

    assert code == 2
    assert (
        "small was not prepared: the disk is full; give more[2J; the same command goes on where it was"
        in said
    )
    assert aws.calls.count("StartInstances") == 1
    assert snapshots(ec2) == []


def test_a_console_that_is_behind_the_stop_and_a_network_that_is_away_cost_no_data_set(
    cloud: Cloud, aws: StandIn, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget()
    looks = 0

    def go_on(operation: str, form: dict[str, str]) -> None:
        nonlocal looks
        looks += operation == "GetConsoleOutput"
        if operation == "GetConsoleOutput" and looks == 1:
            aws.console = "trainer: state=preparing starts=1 hours=0.01\n"
        if operation == "GetConsoleOutput" and looks == 2:
            aws.cut_off = 3
        if operation == "GetConsoleOutput" and looks == 4:
            end(aws, ec2, aws.console)
        if looks == 9:
            aws.console = READY

    aws.hook = go_on
    code, said = cloud(*DATA)
    forget()

    assert code == 0, said
    assert "AWS cannot be reached now; the machine goes on, and this tries again" in said
    assert looks >= 9
    assert len(snapshots(ec2)) == 1


def test_a_machine_whose_console_never_says_how_it_ended_is_not_called_prepared(
    cloud: Cloud, aws: StandIn, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_data, "LAG", 0)
    aws.hook = lambda operation, form: end(aws, ec2, "") if operation == "GetConsoleOutput" else None
    code, said = cloud(*DATA)

    assert code == 2
    assert "its machine has stopped, and its console does not say why" in said


def test_a_machine_that_prepares_one_source_is_not_taken_for_another(
    cloud: Cloud, aws: StandIn, ec2: Any
) -> None:
    cloud(*DATA, "--no-wait")
    for state in ("running", "stopped"):
        code, said = cloud("data", "imagenette --size 160", *DATA[2:])
        assert (code, state) == (2, instances(ec2)[0]["State"]["Name"])
        assert "small is being prepared from imagenette --size 320; take it down first" in said
        end(aws, ec2, "trainer: state=failed starts=1 reason=x\n")


def test_secrets_of_the_source_are_asked_for_and_kept_by_ssm(
    cloud: Cloud, aws: StandIn, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ["data", "kaggle", "--repository", "https://example.org/x", "--yes", "--no-wait"]
    code, said = cloud(*source)
    assert (code, aws.changes) == (2, [])
    assert "give --secret KAGGLE_USERNAME --secret KAGGLE_KEY" in said

    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "0123456789abcdef")
    assert cloud(*source, "--secret", "KAGGLE_USERNAME", "--secret", "KAGGLE_KEY")[0] == 0
    name = "/trainer/imagenet/env"
    (kept,) = clients("ssm").get_parameters(Names=[name], WithDecryption=True)["Parameters"]
    assert kept["Value"] == "KAGGLE_USERNAME=me\nKAGGLE_KEY=0123456789abcdef"
    asked = aws.last("RunInstances")
    assert "0123456789abcdef" not in base64.b64decode(asked["UserData"]).decode()
    assert asked["BlockDeviceMapping.1.Ebs.VolumeSize"] == "240"  # Kaggle's zip is downloaded whole


def test_a_source_on_s3_may_be_read_by_the_machine(cloud: Cloud, clients: Clients) -> None:
    words = [
        "data",
        "imagenet",
        "s3://mine/train.tar",
        "s3://mine/val.tar",
        "--repository",
        "https://example.org/x",
    ]
    assert cloud(*words, "--yes", "--no-wait")[0] == 0

    name = "trainer-us-east-1-imagenet"
    statements = clients("iam").get_role_policy(RoleName=name, PolicyName="trainer")["PolicyDocument"][
        "Statement"
    ]
    assert [one["Action"] for one in statements] == [
        ["s3:GetObject"],
        ["s3:ListBucket", "s3:GetBucketLocation"],
    ] * 2
