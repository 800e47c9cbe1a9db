"""`trainer cloud up`: one machine, whatever is killed, and nothing that was not agreed to."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.cloud.conftest import ROOT, UP, Clients, Cloud, forget, instances, kill_until_done
from tests.cloud.stand_in import GPU_AMI, StandIn

KILLED = [
    "PutParameter",
    "CreateRole",
    "PutRolePolicy",
    "CreateInstanceProfile",
    "AddRoleToInstanceProfile",
    "ImportKeyPair",
    "CreateSecurityGroup",
    "AuthorizeSecurityGroupIngress",
    "RunInstances",
]
SECRET = ["--secret", "HF_TOKEN", "--runs-remote", "s3://mine/runs"]


@pytest.fixture
def snapshot(ec2: Any) -> str:
    """A data set of 200 GB, as `trainer cloud data` leaves it."""
    volume = ec2.create_volume(Size=200, AvailabilityZone="us-east-1a", VolumeType="gp3")["VolumeId"]
    tags = [
        {"Key": "Project", "Value": "trainer"},
        {"Key": "Run", "Value": "imagenet"},
        {"Key": "Kind", "Value": "data"},
    ]
    specifications = [{"ResourceType": "snapshot", "Tags": tags}]
    name = ec2.create_snapshot(VolumeId=volume, TagSpecifications=specifications)["SnapshotId"]
    ec2.delete_volume(VolumeId=volume)
    return str(name)


def test_the_machine_is_as_it_was_asked_for(cloud: Cloud, aws: StandIn, ec2: Any, snapshot: str) -> None:
    code, said = cloud(
        *UP,
        "--spot",
        "--max-price",
        "0.5",
        "--max-dollars",
        "15",
        "--until-top1",
        "0.75",
        "--yes",
        recipe="rn50-75",
    )

    assert code == 0, said
    (one,) = instances(ec2)
    asked = aws.last("RunInstances")
    assert one["Placement"]["AvailabilityZone"] == "us-east-1b"  # where a spot instance costs least
    assert (one["ImageId"], one["InstanceType"]) == (GPU_AMI, "g5.2xlarge")
    assert {tag["Key"]: tag["Value"] for tag in one["Tags"]} == {
        "Project": "trainer",
        "Run": "rn50-75",
        "Kind": "train",
        "Name": "trainer-rn50-75",
        "Access": "ssh",
    }
    spot = "InstanceMarketOptions.SpotOptions."
    assert {
        key: asked[key] for key in asked if key.startswith(("InstanceMarket", "Metadata", "InstanceInit"))
    } == {
        "InstanceMarketOptions.MarketType": "spot",
        f"{spot}SpotInstanceType": "persistent",
        f"{spot}InstanceInterruptionBehavior": "stop",
        f"{spot}MaxPrice": "0.5",
        "MetadataOptions.HttpTokens": "required",
        "MetadataOptions.HttpPutResponseHopLimit": "2",
        "MetadataOptions.HttpEndpoint": "enabled",
        "InstanceInitiatedShutdownBehavior": "stop",
    }
    volumes = {one["Size"]: one for one in ec2.describe_volumes()["Volumes"]}
    assert set(volumes) == {150, 200}
    assert volumes[200]["SnapshotId"] == snapshot
    assert asked["BlockDeviceMapping.2.Ebs.Throughput"] == "500"
    (group,) = ec2.describe_security_groups(GroupNames=["trainer-rn50-75"])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    assert [span["CidrIp"] for span in rule["IpRanges"]] == ["198.51.100.4/32"]  # as the address service says
    script = base64.b64decode(asked["UserData"]).decode()
    assert "--max-dollars 15 --until-top1 0.75" in script
    assert "--instance g5.2xlarge --price 0.41" in script
    assert f"{one['InstanceId']} runs in us-east-1b, at {one['PublicDnsName']}" in said


def test_a_dry_run_says_what_it_would_cost_and_changes_nothing(
    cloud: Cloud, aws: StandIn, snapshot: str
) -> None:
    aws.calls.clear()
    code, said = cloud(*UP, *SECRET[2:], "--spot", "--dry-run", recipe="rn50-75")

    assert (code, aws.changes) == (0, [])
    assert "g5.2xlarge spot, and its address" in said
    assert "$   0.415 an hour" in said  # 0.41, and 0.005 for the address
    assert "data disk, 200 GB gp3" in said
    assert "$    36.00 a month" in said  # 200 x 0.08, 375 MB/s x 0.04, 1,000 IOPS x 0.005


def test_nothing_is_spent_without_a_yes(
    cloud: Cloud, aws: StandIn, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = cloud(*UP)
    assert (code, aws.changes) == (2, [])
    assert said.index("together  ") < said.index("nobody is here to be asked")

    monkeypatch.setattr("sys.stdin", Typed("n"))
    code, said = cloud(*UP)
    assert (code, aws.changes) == (0, [])
    assert said.endswith("nothing was done\n")

    monkeypatch.setattr("sys.stdin", Typed("y"))
    assert cloud(*UP)[0] == 0
    assert len(instances(ec2)) == 1


class Typed:
    """Somebody at a terminal."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        return f"{self._answer}\n"


def test_killed_after_each_change_and_given_again_and_again_it_makes_one_machine(
    cloud: Cloud, aws: StandIn, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time AWS has carried one change out, and the process does not hear of it."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    killed = kill_until_done(aws, lambda: cloud(*UP, "--spot", *SECRET, "--yes")[0])

    assert killed == KILLED
    assert len(instances(ec2)) == 1
    (group,) = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["trainer-*"]}])[
        "SecurityGroups"
    ]
    assert [span["CidrIp"] for span in group["IpPermissions"][0]["IpRanges"]] == ["198.51.100.4/32"]
    assert len(ec2.describe_volumes()["Volumes"]) == 1


def test_a_process_that_is_killed_while_aws_starts_the_machine_leaves_one(
    cloud: Cloud, aws: StandIn, ec2: Any
) -> None:
    command = [
        sys.executable,
        "-m",
        "trainer",
        "cloud",
        "up",
        "digits",
        *UP[1:],
        "--ssh-from",
        "203.0.113.7/32",
        "--yes",
    ]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )

    def kill(operation: str, form: dict[str, str]) -> None:
        if operation == "RunInstances":
            process.send_signal(signal.SIGKILL)

    aws.hook = kill
    assert process.wait() == -signal.SIGKILL
    aws.hook = lambda operation, form: None
    assert cloud(*UP, "--yes")[0] == 0

    assert len(instances(ec2)) == 1
    assert aws.calls.count("RunInstances") <= 2


def test_a_machine_that_aws_does_not_list_yet_is_not_made_twice(cloud: Cloud, aws: StandIn, ec2: Any) -> None:
    aws.begin([change for change in KILLED if change != "RunInstances"])
    assert cloud(*UP, "--yes")[0] == 2
    aws.begin(None)
    aws.blind = 1
    assert cloud(*UP, "--yes")[0] == 0

    assert len(instances(ec2)) == 1


def test_given_again_it_lets_the_new_address_in_beside_one_that_was_given_and_makes_nothing(
    cloud: Cloud, aws: StandIn, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def let_in() -> list[str]:
        (group,) = ec2.describe_security_groups(GroupNames=["trainer-digits"])["SecurityGroups"]
        return sorted(span["CidrIp"] for rule in group["IpPermissions"] for span in rule["IpRanges"])

    cloud(*UP, "--ssh-from", "203.0.113.0/24", "--yes")
    code, said = cloud(*UP)

    assert code == 0
    assert "nothing new is made" in said
    assert len(instances(ec2)) == 1
    assert let_in() == ["198.51.100.4/32", "203.0.113.0/24"]
    aws.address = "198.51.100.77"  # this computer has moved
    cloud(*UP)
    assert let_in() == ["198.51.100.77/32", "203.0.113.0/24"]
    cloud(*UP, "--ssh-from", "203.0.113.9")
    assert let_in() == ["203.0.113.9/32"]


def test_a_machine_that_was_terminated_by_hand_is_followed_by_another(
    cloud: Cloud, aws: StandIn, ec2: Any
) -> None:
    for _ in range(2):
        assert cloud(*UP, "--yes")[0] == 0
        ec2.terminate_instances(InstanceIds=[instances(ec2)[0]["InstanceId"]])
    assert cloud(*UP, "--yes")[0] == 0

    assert len(instances(ec2)) == 1


def test_a_machine_that_aws_ends_at_once_is_told_with_its_reason_and_the_next_try_makes_another(
    cloud: Cloud, aws: StandIn, ec2: Any
) -> None:
    def end_it(operation: str, form: dict[str, str]) -> None:
        if aws.calls[-2:] == ["RunInstances", "DescribeInstances"]:
            ec2.terminate_instances(InstanceIds=[instances(ec2)[0]["InstanceId"]])

    aws.hook = end_it
    code, said = cloud(*UP, "--yes")
    assert code == 2
    assert "of digits: Client.UserInitiatedShutdown" in said
    assert said.endswith("; the same command makes another\n")
    aws.hook = lambda operation, form: None
    assert cloud(*UP, "--yes")[0] == 0
    assert len(instances(ec2)) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("InvalidParameterValue", "Value (trainer) for parameter iamInstanceProfile.name is invalid."),
        ("InvalidParameterValue", 'IAM Instance Profile "arn:aws:iam::1:x" has no associated IAM Roles'),
        ("InvalidGroup.NotFound", "The security group 'sg-1' does not exist"),
    ],
)
def test_what_was_made_a_moment_ago_and_is_not_known_everywhere_is_waited_for(
    cloud: Cloud, aws: StandIn, ec2: Any, code: str, message: str
) -> None:
    aws.hook = lambda operation, form: (code, message) if aws.calls.count("RunInstances") in (1, 2) else None

    assert cloud(*UP, "--runs-remote", "s3://mine/runs", "--yes")[0] == 0
    assert len(instances(ec2)) == 1


def test_a_machine_that_has_stopped_itself_is_started_again_if_that_is_agreed_to(
    cloud: Cloud, aws: StandIn, ec2: Any
) -> None:
    cloud(*UP, "--yes")
    name = instances(ec2)[0]["InstanceId"]
    ec2.stop_instances(InstanceIds=[name])
    aws.console = (
        "[ 99.1] trainer-machine[812]: trainer: state=stopped starts=1 hours=2.0 reason=the budget is spent\n"
    )

    code, said = cloud(*UP)
    assert (code, instances(ec2)[0]["State"]["Name"]) == (2, "stopped")
    assert "it has said: stopped: the budget is spent" in said
    code, said = cloud(*UP, "--max-dollars", "25", "--yes")
    assert code == 0
    assert "trainer train digits --instance g5.2xlarge --price 1.212 --max-dollars 25" in said

    (one,) = instances(ec2)
    assert (one["InstanceId"], one["State"]["Name"]) == (name, "running")
    script = base64.b64decode(aws.last("ModifyInstanceAttribute")["UserData.Value"]).decode()
    assert "--max-dollars 25" in script
    assert script.startswith("#!/usr/bin/env bash\n")


def test_a_machine_that_starts_again_gets_the_secrets_of_today_and_no_rights_it_was_not_made_with(
    cloud: Cloud, aws: StandIn, ec2: Any, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> str:
        found = clients("ssm").get_parameters(Names=["/trainer/digits/env"], WithDecryption=True)
        return str(found["Parameters"][0]["Value"])

    monkeypatch.setenv("HF_TOKEN", "old")
    cloud(*UP, *SECRET, "--yes")
    ec2.stop_instances(InstanceIds=[instances(ec2)[0]["InstanceId"]])
    monkeypatch.setenv("HF_TOKEN", "it's $new #1")
    assert cloud(*UP, *SECRET, "--yes")[0] == 0
    assert kept() == "HF_TOKEN='it\\'s $new #1'"

    monkeypatch.setenv("HF_TOKEN", "hf_a\nhf_b")
    ec2.stop_instances(InstanceIds=[instances(ec2)[0]["InstanceId"]])
    code, said = cloud(*UP, *SECRET, "--yes")
    assert (code, "the value of --secret HF_TOKEN has a line break" in said, "hf_a" in said) == (
        2,
        True,
        False,
    )

    cloud(*UP, "--name", "bare", "--yes")
    ec2.stop_instances(InstanceIds=[one["InstanceId"] for one in instances(ec2)])
    code, said = cloud(*UP, "--name", "bare", *SECRET[2:], "--yes")
    assert code == 2
    assert "bare was made without any right in AWS" in said


def test_a_spot_machine_that_aws_has_taken_away_is_left_to_aws(
    cloud: Cloud, aws: StandIn, ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moto.backends import get_backend

    cloud(*UP, "--spot", "--yes")
    name = instances(ec2)[0]["InstanceId"]
    ec2.stop_instances(InstanceIds=[name])
    aws.refuses["StartInstances"] = ("IncorrectSpotRequestState", "Only Amazon EC2 can restart it")
    code, said = cloud(*UP, "--spot", "--yes")
    assert code == 2
    assert "alone may start it; it does so by itself" in said

    machine = get_backend("ec2")["123456789012"]["us-east-1"].get_instance(name)
    machine.state_reason.code = "Server.SpotInstanceShutdown"
    aws.calls.clear()
    code, said = cloud(*UP, "--spot", "--yes")
    assert (code, aws.changes) == (0, [])
    assert "is stopped: AWS needed the machine; AWS starts it again by itself" in said


def test_another_zone_is_taken_where_the_cheapest_is_full(cloud: Cloud, aws: StandIn, ec2: Any) -> None:
    full = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1b"]}])["Subnets"][
        0
    ]["SubnetId"]
    refused = ("InsufficientInstanceCapacity", "We currently do not have sufficient g5.2xlarge capacity")
    aws.hook = lambda operation, form: refused if form.get("SubnetId") == full else None

    assert cloud(*UP, "--spot", "--yes")[0] == 0
    assert instances(ec2)[0]["Placement"]["AvailabilityZone"] == "us-east-1a"


def test_secrets_stand_nowhere_but_in_an_encrypted_parameter(
    cloud: Cloud, aws: StandIn, ec2: Any, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, said = cloud(*UP, *SECRET, "--yes")

    assert code == 0
    assert "hf_secret" not in said
    script = base64.b64decode(aws.last("RunInstances")["UserData"]).decode()
    assert "hf_secret" not in script
    assert "/trainer/digits/env" in script
    assert "s3://mine/runs" in script
    (kept,) = clients("ssm").get_parameters(Names=["/trainer/digits/env"], WithDecryption=True)["Parameters"]
    assert (kept["Type"], kept["Value"]) == ("SecureString", "HF_TOKEN='hf_secret'")
    role = "trainer-us-east-1-digits"
    policy = clients("iam").get_role_policy(RoleName=role, PolicyName="trainer")["PolicyDocument"]
    allowed = [(one["Action"], one["Resource"]) for one in policy["Statement"]]
    assert allowed == [
        ("ssm:GetParameter", "arn:aws:ssm:us-east-1:*:parameter/trainer/digits/env"),
        (
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            "arn:aws:s3:::mine/runs/*",
        ),
        (["s3:ListBucket", "s3:GetBucketLocation"], "arn:aws:s3:::mine"),
    ]
    assert instances(ec2)[0]["IamInstanceProfile"]["Arn"].endswith(role)


def test_with_the_session_manager_no_port_is_open_and_no_key_is_there(
    cloud: Cloud, ec2: Any, aws: StandIn, clients: Clients
) -> None:
    assert cloud(*UP, "--ssm", "--yes")[0] == 0

    assert (
        ec2.describe_security_groups(GroupNames=["trainer-digits"])["SecurityGroups"][0]["IpPermissions"]
        == []
    )
    assert ec2.describe_key_pairs()["KeyPairs"] == []
    assert "KeyName" not in aws.last("RunInstances")

    ec2.stop_instances(InstanceIds=[instances(ec2)[0]["InstanceId"]])
    assert cloud(*UP, "--runs-remote", "s3://mine/runs", "--yes")[0] == 0  # it stays reached as it was made
    role = {"RoleName": "trainer-us-east-1-digits", "PolicyName": "trainer"}
    policy = clients("iam").get_role_policy(**role)["PolicyDocument"]
    assert {"s3:PutObject", "ssmmessages:OpenDataChannel"} < {
        action for one in policy["Statement"] for action in one["Action"]
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data-gb", "100"], "--data-gb 100 is smaller than the snapshot"),
        (["--root-gb", "50"], "--root-gb 50 is too small; the images alone need 150"),
        (
            ["--instance", "g5.4xlarge"],
            "needs 16 vCPUs of the quota “Running On-Demand G and VT instances” in us-east-1",
        ),
        (["--instance", "p3.2xlarge"], "Volta"),
        (["--instance", "g5.3xlarge"], "--instance g5.3xlarge is not known"),
        (
            ["--zone", "us-east-1z"],
            "g5.2xlarge is not offered in us-east-1z; in us-east-1 it is in us-east-1a",
        ),
        (["--max-price", "1"], "--max-price is for spot instances"),
        (
            ["--spot", "--max-price", "0.1"],
            "g5.2xlarge costs $0.410 an hour in us-east-1b now, more than --max-price",
        ),
        (["--region", "us-east-9"], "--region us-east-9 is none of AWS's regions"),
        (["--name", "My Run"], "--name My Run must have 1 to 32 lower-case letters"),
        (["--env", "HF_TOKEN=x"], "looks like a secret"),
        (
            ["--secret", "NOT_THERE"],
            "--secret NOT_THERE is the name of a variable of this shell, which is not set",
        ),
        (["--runs-remote", "mine/runs"], "mine/runs is no address as s3://BUCKET/PREFIX"),
        (
            ["--runs-remote", "s3://nowhere/runs"],
            "there is no bucket nowhere; make it: aws s3 mb s3://nowhere",
        ),
        (["--repository", "https://me:pw@example.org/x"], "holds a password"),
        (
            ["--repository", "https://example.org/me/private"],
            "git cannot read https://example.org/me/private without a password, as the machine must",
        ),
        (["--data-snapshot", "snap-0123456789abcdef0"], "AWS refuses DescribeSnapshots"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    cloud: Cloud, aws: StandIn, snapshot: str, options: list[str], says: str
) -> None:
    aws.calls.clear()
    code, said = cloud(*UP, *options, "--yes", recipe="rn50-75")

    assert (code, aws.changes) == (2, []), said
    assert says in said


def test_a_misspelt_recipe_and_a_wrong_address_are_refused(cloud: Cloud, aws: StandIn) -> None:
    code, said = cloud(*UP, "--yes", recipe="rn50-oncycle")
    assert (code, aws.changes) == (2, [])
    assert "there is no recipe rn50-oncycle; did you mean rn50-onecycle?" in said
    for address in ("203.0.113.7/8", "2001:db8::7"):
        with pytest.raises(SystemExit, match="2"):
            cloud(*UP, "--ssh-from", address)


def test_without_a_data_set_or_with_several_it_asks_for_one(cloud: Cloud, snapshot: str, ec2: Any) -> None:
    volume = ec2.create_volume(Size=10, AvailabilityZone="us-east-1a")["VolumeId"]
    ours = {"Project": "trainer", "Run": "other", "Kind": "data"}
    labels = [{"Key": key, "Value": value} for key, value in ours.items()]
    specifications = [{"ResourceType": "snapshot", "Tags": labels}]
    other = ec2.create_snapshot(VolumeId=volume, TagSpecifications=specifications)["SnapshotId"]
    assert "there are several data sets; say which with --data-snapshot" in cloud(*UP, recipe="rn50-75")[1]

    for name in (snapshot, other):
        ec2.delete_snapshot(SnapshotId=name)
    code, said = cloud(*UP, recipe="rn50-75")
    assert code == 2
    assert "make one: ./scripts/cloud data SOURCE" in said


@pytest.mark.parametrize(
    ("operation", "code", "message", "says"),
    [
        (
            "RunInstances",
            "VcpuLimitExceeded",
            "You have requested more vCPU capacity",
            "vCPU quota for machines on demand",
        ),
        (
            "RunInstances",
            "MaxSpotInstanceCountExceeded",
            "Max spot instance count exceeded",
            "quota for spot instances",
        ),
        (
            "RunInstances",
            "InsufficientInstanceCapacity",
            "We currently do not",
            "AWS has no free machine of this type now",
        ),
        (
            "RunInstances",
            "UnauthorizedOperation",
            "Encoded authorization failure message: 3xK",
            "does not allow RunInstances to these credentials; ask the account's owner for that right, and for iam:",
        ),
        (
            "RunInstances",
            "InvalidParameterCombination",
            "that is wrong",
            "AWS refuses RunInstances: that is wrong (Inva",
        ),
        (
            "RunInstances",
            "IdempotentParameterMismatch",
            "Arguments on this idempotent request are inconsistent",
            "or take it down first: ./scripts/cloud down digits",
        ),
        ("DescribeInstances", "RequestExpired", "Request has expired.", "this computer's clock is off"),
        (
            "DescribeInstances",
            "AuthFailure",
            "AWS was not able to validate",
            "AWS does not know these credentials",
        ),
        (
            "GetParameter",
            "AccessDeniedException",
            "User is not authorized",
            "AWS does not allow GetParameter",
        ),
    ],
)
def test_what_aws_refuses_is_one_sentence(
    cloud: Cloud, aws: StandIn, operation: str, code: str, message: str, says: str
) -> None:
    aws.refuses[operation] = (code, message)
    exit_code, said = cloud(*UP, "--yes")

    assert exit_code == 2
    assert says in said.splitlines()[-1]
    assert "3xK" not in said


def test_no_credentials_and_no_network_are_one_sentence(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    forget()
    assert "no region is set; give --region us-east-1" in cloud("status")[1]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    forget()
    code, said = cloud("status", "--region", "us-east-1")
    assert (code, "there are no AWS credentials here" in said) == (2, True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget()
    code, said = cloud("status", "--region", "us-east-1")
    assert (code, "AWS cannot be reached" in said) == (2, True)
    forget()
