"""`trainer cloud status` and `ui`: how far it is, what it has cost, and how it is looked at."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cloud.conftest import UP, Cloud, instances
from tests.cloud.stand_in import StandIn
from trainer.cloud._machine import Found, Said

TRAINING = "[ 60.1] trainer-machine[7]: trainer: state=training starts=3 hours=9.50 epoch=12 epochs=18 top1=0.7123\r\n"


def test_a_run_is_shown_with_its_epoch_accuracy_dollars_and_interruptions(
    cloud: Cloud, aws: StandIn, ec2: Any
) -> None:
    cloud(*UP, "--spot", "--yes")
    aws.console = f"Linux version 6.8\r\ntrainer: state=preparing starts=1\r\n{TRAINING}cloud-init: done\r\n"
    code, said = cloud("status")

    assert code == 0
    assert "training, epoch 12 of 18, top-1 71.23%" in said
    assert "interrupted or stopped 2 times so far" in said
    (one,) = json.loads(cloud("status", "--json")[1])
    assert (one["epoch"], one["top1"], one["starts"]) == (12, 0.7123, 3)
    assert one["usd"] == pytest.approx(9.5 * 0.41, abs=0.01)  # the disk is a second old


def test_a_machine_that_has_no_disks_yet_costs_nothing_yet(cloud: Cloud, aws: StandIn, ec2: Any) -> None:
    from moto.backends import get_backend

    cloud(*UP, "--yes")
    backend = get_backend("ec2")["123456789012"]["us-east-1"]
    backend.get_instance(instances(ec2)[0]["InstanceId"]).block_device_mapping.clear()
    code, said = cloud("status")

    assert code == 0
    assert "disks at $0.00 a month" in said


def test_nothing_is_nothing(cloud: Cloud) -> None:
    assert "other regions are not looked at" in cloud("status")[1]
    assert json.loads(cloud("status", "--json")[1]) == []


@pytest.mark.parametrize(
    ("console", "said"),
    [
        ("", Said()),
        ("Linux version 6.8\n", Said()),
        (
            "trainer: state=ready starts=1 hours=0.3 images=13\r\n",
            Said("ready", {"starts": "1", "hours": "0.3"}, "images=13"),
        ),
        (
            "trainer: state=failed starts=1 reason=no room: 3 GB\x1b[2J",
            Said("failed", {"starts": "1"}, "no room: 3 GB[2J"),
        ),
        ("trainer: state=training epoch=1.2.3", Said("training", {"epoch": "1.2.3"})),
    ],
)
def test_the_last_line_of_a_console_counts(console: str, said: Said) -> None:
    assert Said.parse(console) == said
    assert said.number("epoch") is None


def test_a_stopped_machine_has_run_until_it_was_stopped() -> None:
    began = datetime(2026, 11, 26, 8, 0, tzinfo=UTC)
    stopped = {"Name": "stopped"}
    one = Found(
        {
            "State": stopped,
            "LaunchTime": began,
            "StateTransitionReason": "User initiated (2026-11-26 10:30:00 GMT)",
        }
    )
    assert one.hours() == 2.5
    running = Found({"State": {"Name": "running"}, "LaunchTime": datetime.now(UTC) - timedelta(hours=1)})
    assert running.hours() == pytest.approx(1, abs=0.01)


def test_the_tunnel_goes_by_ssh_from_the_address_of_today(cloud: Cloud, ec2: Any) -> None:
    cloud(*UP, "--ssh-from", "203.0.113.7/32", "--yes")
    address = instances(ec2)[0]["PublicDnsName"]
    code, said = cloud("ui", "--print", "--port", "5001", "--identity", "key.pem")

    assert code == 0
    assert said.startswith(
        f"ssh -i key.pem -o ExitOnForwardFailure=yes -N -L 5001:127.0.0.1:5000 ubuntu@{address}\n"
    )
    (group,) = ec2.describe_security_groups(GroupNames=["trainer-digits"])["SecurityGroups"]
    spans = [span["CidrIp"] for rule in group["IpPermissions"] for span in rule["IpRanges"]]
    assert sorted(spans) == ["198.51.100.4/32", "203.0.113.7/32"]


def test_the_tunnel_goes_by_the_session_manager_where_no_port_is_open(cloud: Cloud, ec2: Any) -> None:
    cloud(*UP, "--ssm", "--yes")
    code, said = cloud("ui", "--print")

    assert code == 0
    assert said.startswith(
        f"aws ssm start-session --region us-east-1 --target {instances(ec2)[0]['InstanceId']} "
    )
    assert "AWS-StartPortForwardingSession" in said


def test_without_one_machine_there_is_no_tunnel(cloud: Cloud) -> None:
    assert "no machine that trains is running" in cloud("ui", "--print")[1]
    for name in ("one", "two"):
        cloud(*UP, "--name", name, "--yes")
    code, said = cloud("ui", "--print")
    assert (code, "say which run: one, two" in said) == (2, True)
