"""`trainer cloud down`: nothing is left, and what is not ours stays."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cloud.conftest import UP, Clients, Cloud, instances, kill_until_done
from tests.cloud.stand_in import StandIn

OURS = [{"Name": "tag:Project", "Values": ["trainer"]}]


def what_is_there(ec2: Any, clients: Clients) -> list[str]:
    """All in the account that has our tags or names."""
    iam, ssm = clients("iam"), clients("ssm")
    requests = ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    return [
        *(one["InstanceId"] for one in instances(ec2)),
        *(one["VolumeId"] for one in ec2.describe_volumes(Filters=OURS)["Volumes"]),
        *(one["GroupId"] for one in ec2.describe_security_groups(Filters=OURS)["SecurityGroups"]),
        *(one["KeyName"] for one in ec2.describe_key_pairs(Filters=OURS)["KeyPairs"]),
        *(one["SpotInstanceRequestId"] for one in requests if one["State"] not in ("cancelled", "closed")),
        *(one["Name"] for one in ssm.describe_parameters()["Parameters"]),
        *(one["RoleName"] for one in iam.list_roles(PathPrefix="/trainer/")["Roles"]),
        *(
            one["InstanceProfileName"]
            for one in iam.list_instance_profiles(PathPrefix="/trainer/")["InstanceProfiles"]
        ),
    ]


@pytest.fixture
def made(cloud: Cloud, ec2: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes one of everything, with the persistent spot request that moto does not make of RunInstances."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    def make() -> None:
        assert (
            cloud(*UP, "--spot", "--secret", "HF_TOKEN", "--runs-remote", "s3://mine/runs", "--yes")[0] == 0
        )
        tags = [{"Key": "Project", "Value": "trainer"}, {"Key": "Run", "Value": "digits"}]
        tags.append({"Key": "Kind", "Value": "train"})
        ec2.request_spot_instances(
            Type="persistent",
            LaunchSpecification={"ImageId": instances(ec2)[0]["ImageId"], "InstanceType": "g5.2xlarge"},
            TagSpecifications=[{"ResourceType": "spot-instances-request", "Tags": tags}],
        )
        volume = ec2.create_volume(
            Size=200,
            AvailabilityZone="us-east-1a",
            TagSpecifications=[{"ResourceType": "volume", "Tags": tags}],
        )["VolumeId"]
        ec2.create_snapshot(VolumeId=volume, TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}])

    return make


def test_all_goes_but_the_snapshot_whose_price_is_told(
    cloud: Cloud, aws: StandIn, ec2: Any, clients: Clients, made: Any
) -> None:
    made()
    assert {one.get("Tags") is None for one in instances(ec2)} == {False, True}  # as of a spot request
    aws.calls.clear()
    code, said = cloud("down", "--dry-run")
    assert (code, aws.changes) == (0, [])
    assert "this goes for good" in said

    code, said = cloud("down", "--yes")
    assert code == 0, said
    assert aws.calls.index("CancelSpotInstanceRequests") < aws.calls.index("TerminateInstances")
    assert what_is_there(ec2, clients) == []
    assert "200 GB, up to $10.00 a month" in said.partition("what still costs money:")[2]

    aws.calls.clear()
    code, said = cloud("down", "--yes")
    assert (code, aws.changes) == (0, [])
    assert "is there to be taken down" in said
    code, said = cloud("down", "--snapshots", "--yes")
    assert code == 0
    assert "nothing of trainer in us-east-1 is left that costs money" in said
    assert ec2.describe_snapshots(Filters=OURS)["Snapshots"] == []


def test_killed_after_each_change_and_given_again_and_again_it_leaves_nothing(
    cloud: Cloud, aws: StandIn, ec2: Any, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    cloud(*UP, "--secret", "HF_TOKEN", "--runs-remote", "s3://mine/runs", "--yes")
    killed = kill_until_done(aws, lambda: cloud("down", "--yes")[0])

    assert killed == [
        "TerminateInstances",
        "DeleteSecurityGroup",
        "DeleteKeyPair",
        "DeleteParameter",
        "RemoveRoleFromInstanceProfile",
        "DeleteInstanceProfile",
        "DeleteRolePolicy",
        "DeleteRole",
    ]
    assert what_is_there(ec2, clients) == []


def test_one_run_goes_and_another_and_what_is_not_ours_stay(cloud: Cloud, ec2: Any) -> None:
    cloud(*UP, "--yes")
    cloud(*UP, "--name", "second", "--yes")
    ec2.run_instances(ImageId=instances(ec2)[0]["ImageId"], MinCount=1, MaxCount=1)
    assert cloud("down", "digits", "--yes")[0] == 0

    left = [{tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}.get("Run") for one in instances(ec2)]
    assert left == ["second", None]
    assert cloud("down", "--yes")[0] == 0
    assert len(instances(ec2)) == 1


def test_what_others_call_trainer_stays(cloud: Cloud, aws: StandIn, ec2: Any, clients: Clients) -> None:
    theirs = [{"Key": "Project", "Value": "trainer"}, {"Key": "Run", "Value": "daily"}]
    specifications = [{"ResourceType": kind, "Tags": theirs} for kind in ("instance", "volume")]
    image = aws.parameters[next(iter(aws.parameters))]
    ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, TagSpecifications=specifications)
    ssm = clients("ssm")
    for name, tags in {"/trainer/prod/db": theirs, "/trainer/prod/env": []}.items():
        ssm.put_parameter(Name=name, Value="x", Type="String", Tags=tags)
    aws.calls.clear()
    code, said = cloud("down", "--snapshots", "--yes")

    assert (code, aws.changes) == (0, [])
    assert "nothing of trainer in us-east-1 is there to be taken down" in said


def test_nothing_goes_without_a_yes(cloud: Cloud, aws: StandIn, ec2: Any) -> None:
    cloud(*UP, "--yes")
    code, said = cloud("down")

    assert code == 2
    assert "nobody is here to be asked" in said
    assert len(instances(ec2)) == 1
