"""`trainer cloud check`, and where it runs: at home, with Python and boto3 alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.cloud.conftest import ROOT, Cloud
from tests.cloud.stand_in import StandIn

# What boto3 brings; anything else that is imported is refused.
LIGHT = """
import sys

class Refuse:
    brought = {"boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3"}
    known = {*sys.stdlib_module_names, *brought, "trainer"}

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in self.known:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from trainer.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_account_that_can_start_is_told_so(cloud: Cloud, aws: StandIn) -> None:
    code, said = cloud("check")

    assert code == 0, said
    lines = said.splitlines()
    assert lines[0].startswith("ok       credentials: arn:aws:")
    assert lines[2] == (
        "ok       All G and VT Spot Instance Requests: 8 vCPUs: g4dn.xlarge, g4dn.2xlarge, g5.xlarge, g5.2xlarge, "
        "g6.xlarge, g6.2xlarge, g6e.xlarge, g6e.2xlarge"
    )
    assert "spot $0.410 in us-east-1b, $0.520 in us-east-1a, $0.600 in us-east-1c; g5.2xlarge $1.212" in said
    assert aws.changes == []


def test_a_new_account_is_told_its_quota_first_and_where_to_ask_for_more(cloud: Cloud, aws: StandIn) -> None:
    aws.quotas["L-3819A6DF"] = 0
    code, said = cloud("check")

    assert code == 2
    missing = [line for line in said.splitlines() if line.startswith("MISSING")]
    assert missing == ["MISSING  All G and VT Spot Instance Requests: 0 vCPUs: none of the known types"]
    assert "ask for 8 or more" in said
    assert (
        "https://us-east-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/L-3819A6DF" in said
    )
    assert said.endswith("g5.2xlarge cannot be started yet: All G and VT Spot Instance Requests; see above\n")


def test_each_missing_thing_is_named_with_what_to_do(
    cloud: Cloud, aws: StandIn, ec2: Any, tmp_path: Any
) -> None:
    aws.parameters.clear()
    aws.spot_prices.clear()
    (tmp_path / ".ssh" / "id_ed25519.pub").unlink()
    for one in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=one["SubnetId"])
    code, said = cloud("check")

    assert code == 2
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("MISSING")] == [
        "MISSING  price now",
        "MISSING  Deep Learning AMI",
        "MISSING  default VPC",
        "MISSING  SSH key",
    ]
    assert "ssh-keygen -t ed25519" in said
    assert "SSH key" not in cloud("check", "--ssm")[1]


@pytest.mark.parametrize(
    ("instance", "missing"),
    [
        ("p4d.24xlarge", "All P4, P3 and P2 Spot Instance Requests"),
        ("p5.48xlarge", "All P5 Spot Instance Requests"),
        ("c6i.2xlarge", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"),
    ],
)
def test_each_type_is_counted_by_the_quota_that_aws_counts_it_by(
    cloud: Cloud, aws: StandIn, instance: str, missing: str
) -> None:
    aws.quotas.update({"L-1216C47A": 5.0, "L-417A185B": 500.0})
    code, said = cloud("check", "--instance", instance)

    assert code == 2
    assert said.endswith(f"{instance} cannot be started yet: {missing}; see above\n")
    assert "./scripts/cloud data takes 8" in cloud("check")[1]


def test_a_quota_that_was_never_changed_is_that_of_new_accounts(cloud: Cloud, aws: StandIn) -> None:
    aws.refuses["GetServiceQuota"] = (
        "NoSuchResourceException",
        "The request failed because the resource does not exist",
    )
    code, said = cloud("check")

    assert code == 0
    assert "ok       All G and VT Spot Instance Requests: 8 vCPUs" in said


def test_a_quota_that_may_not_be_read_is_no_obstacle(cloud: Cloud, aws: StandIn) -> None:
    aws.refuses["GetServiceQuota"] = ("AccessDeniedException", "User is not authorized")
    code, said = cloud("check")

    assert code == 0
    assert "may not be read" in said


def test_the_result_is_json_where_a_program_reads_it(cloud: Cloud) -> None:
    found = json.loads(cloud("check", "--json", "--instance", "g4dn.xlarge")[1])

    assert found["good"] is True
    assert [one["what"] for one in found["findings"]][:3] == [
        "credentials",
        "region",
        "All G and VT Spot Instance Requests",
    ]


def test_it_runs_where_there_is_python_and_boto3_alone(aws: StandIn) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIGHT, "cloud", "check"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")
    assert "Deep Learning AMI" in done.stdout
    done = subprocess.run(
        [*command[:2], LIGHT.replace('"boto3", ', ""), "cloud", "check"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "trainer: boto3 is not installed here; call ./scripts/cloud, which brings it\n",
    )


@pytest.mark.slow
def test_the_script_for_home_brings_all_it_needs(aws: StandIn) -> None:
    if not (shutil.which("uv") or (ROOT / ".uv" / "bin" / "uv").exists()):
        pytest.skip("there is no uv here; ./scripts/install brings it")
    done = subprocess.run([ROOT / "scripts" / "cloud", "check"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "Deep Learning AMI" in done.stdout
