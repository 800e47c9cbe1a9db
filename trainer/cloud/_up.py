"""`trainer cloud up`: a GPU machine that trains."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainer.cloud._account import GPU_IMAGE, require_quota
from trainer.cloud._again import require_profile, start_again
from trainer.cloud._aws import Aws, by_tag, run_name, tag, wait_until
from trainer.cloud._group import let_in, own_address
from trainer.cloud._launch import (
    DATA_DEVICE,
    Disk,
    Image,
    Machine,
    Statement,
    find_machine,
    launch,
    newest_image,
    places,
)
from trainer.cloud._machine import Found, look
from trainer.cloud._plan import Plan, Say
from trainer.cloud._prices import elsewhere, machine_cost, on_demand, volume_cost
from trainer.cloud._rights import (
    SESSION_MANAGER,
    check_secrets,
    keep_secrets,
    may_read_secrets,
    may_use_s3,
    parameter_name,
    require_bucket,
)
from trainer.cloud._user_data import render_train
from trainer.errors import CloudError
from trainer.hints import nearest

RECIPES = Path(__file__).parents[1] / "recipes"
LEAST_ROOT = 150  # GB: NVIDIA's image, ours, what they are built of, MLflow's store and the checkpoints


@dataclass(frozen=True, kw_only=True)
class Up:
    """What was asked for."""

    recipe: str
    instance: str
    repository: str
    revision: str
    name: str | None = None
    spot: bool = False
    max_price: float | None = None
    zone: str | None = None
    data_snapshot: str | None = None
    data_gb: int | None = None
    root_gb: int = LEAST_ROOT
    runs_remote: str | None = None
    arguments: list[str] = field(default_factory=list)  # of `trainer train`
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    public_key: Path | None = None
    ssh_from: str | None = None
    ssm: bool = False
    instance_profile: str | None = None
    keep: bool = False

    @property
    def run(self) -> str:
        """Name of what is made."""
        return run_name(self.name or re.sub(r"[^a-z0-9]+", "-", Path(self.recipe).stem.lower()).strip("-"))


def plan_up(aws: Aws, asked: Up) -> Plan:
    """What is there for this run, or what is made for it. Raises: CloudError, ConfigError."""
    run = asked.run
    if there := find_machine(aws, run):
        return _go_on(aws, asked, look(aws, there))
    _check(asked)
    require_quota(aws, asked.instance, spot=asked.spot)
    where = places(aws, asked.instance, spot=asked.spot, zone=asked.zone)
    snapshot = find_snapshot(aws, asked.recipe, asked.data_snapshot)
    data = None if snapshot is None else _data_disk(snapshot, asked.data_gb)
    newest = newest_image(aws, GPU_IMAGE)
    zone, _, price = where[0]
    if price is not None and asked.max_price is not None and price > asked.max_price:
        raise CloudError(f"{asked.instance} costs ${price:.3f} an hour in {zone} now, more than --max-price")
    hourly = on_demand(asked.instance) if price is None else price
    ssh_from = None if asked.ssm else asked.ssh_from or own_address()
    if not asked.ssm and not (asked.key or asked.public_key):
        raise CloudError(
            "there is no public SSH key in ~/.ssh; make one (ssh-keygen -t ed25519), give --key, or --ssm"
        )
    machine = _machine(aws, asked, newest, data, ssh_from, hourly)
    reached = "SSM alone, no port is open" if asked.ssm else f"SSH from {ssh_from} alone"
    told = [
        f"{run}: {asked.recipe} on a new {asked.instance}{' spot instance' if asked.spot else ''} in {zone}",
        f"  image {newest.id}, root disk {machine.root.gb} GB",
        f"  data from {snapshot['SnapshotId']} ({snapshot['VolumeSize']} GB)"
        if snapshot
        else "  data: digits",
        f"  reached by {reached}; it may do in AWS: {machine.may}",
        f"  trainer train {asked.recipe} {shlex.join(_arguments(asked, hourly))}",
        f"  {asked.repository} at {asked.revision[:12]}",
        f"  at the end of the run, {'it stays on (--keep)' if asked.keep else 'it stops itself; its disks stay'}",
        *elsewhere(aws.region),
    ]
    costs = [
        machine_cost(asked.instance, hourly, spot=asked.spot),
        volume_cost("root disk", machine.root.gb),
        *([volume_cost("data disk", data.gb, mb=data.throughput, iops=data.iops)] if data else []),
    ]

    def make(say: Say) -> None:
        keep_secrets(aws, run, "train", asked.secrets)
        say(f"{launch(aws, machine, where)['InstanceId']} is made")
        _tell(aws, run, say)

    return Plan(told, make, costs, f"Make it, for ${sum(one.usd_per_hour for one in costs):.2f} an hour?")


def _check(asked: Up) -> None:
    check_secrets(asked.secrets)
    known = [path.stem for path in RECIPES.glob("*.yaml")]
    if asked.recipe not in known:
        hint = nearest(asked.recipe, known) or f"; known are {', '.join(sorted(known))}"
        raise CloudError(f"there is no recipe {asked.recipe}{hint}")
    if asked.root_gb < LEAST_ROOT:
        raise CloudError(f"--root-gb {asked.root_gb} is too small; the images alone need {LEAST_ROOT}")
    if asked.max_price is not None and not asked.spot:
        raise CloudError("--max-price is for spot instances; give --spot with it")


def _machine(
    aws: Aws, asked: Up, newest: Image, data: Disk | None, ssh_from: str | None, hourly: float
) -> Machine:
    return Machine(
        run=asked.run,
        kind="train",
        instance=asked.instance,
        image=newest,
        user_data=_user_data(aws, asked, hourly, data=data is not None),
        root=Disk(gb=max(asked.root_gb, newest.gb)),
        data=data,
        spot=asked.spot,
        max_price=asked.max_price,
        ssm=asked.ssm,
        ssh_from=ssh_from,
        ssh_from_here=asked.ssh_from is None,
        key=None if asked.ssm else asked.key,
        public_key=None if asked.ssm else asked.public_key,
        profile=asked.instance_profile,
        rights=_rights(aws, asked),
    )


def _rights(aws: Aws, asked: Up) -> list[Statement]:
    rights: list[Statement] = []
    if asked.secrets:
        rights.append(may_read_secrets(aws, asked.run))
    if asked.runs_remote:
        rights += may_use_s3(asked.runs_remote, write=True)
        require_bucket(aws, asked.runs_remote)
    if asked.ssm:
        rights.append(SESSION_MANAGER)
    return rights


def _user_data(aws: Aws, asked: Up, hourly: float, *, data: bool) -> str:
    remote = {"RUNS_REMOTE": asked.runs_remote} if asked.runs_remote else {}
    return render_train(
        recipe=asked.recipe,
        arguments=_arguments(asked, hourly),
        repository=asked.repository,
        revision=asked.revision,
        data_device=DATA_DEVICE if data else "",
        copy_to_nvme=True,
        env={**asked.env, **remote},
        env_parameter=parameter_name(asked.run) if asked.secrets else None,
        keep=asked.keep,
        region=aws.region,
    )


def _arguments(asked: Up, hourly: float) -> list[str]:
    return ["--instance", asked.instance, "--price", f"{hourly:.4g}", *asked.arguments]


def find_snapshot(aws: Aws, recipe: str, wanted: str | None) -> dict[str, Any] | None:
    """The snapshot with the data set; None for the digits, which the machine has. Raises: CloudError."""
    if wanted:
        found = aws.ec2.describe_snapshots(SnapshotIds=[wanted])["Snapshots"][0]
        if found["State"] != "completed":
            raise CloudError(
                f"{wanted} is {found['State']} ({found.get('Progress')}); wait until it is completed"
            )
        return dict(found)
    if recipe == "digits":
        return None
    ours = aws.pages("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=by_tag(None))
    complete = [one for one in ours if one["State"] == "completed"]
    if len(complete) == 1:
        return dict(complete[0])
    if not complete:
        raise CloudError(
            f"there is no snapshot of a data set in {aws.region}; make one: ./scripts/cloud data SOURCE"
        )
    listed = ", ".join(f"{one['SnapshotId']} ({tag(one, 'Run')})" for one in complete)
    raise CloudError(f"there are several data sets; say which with --data-snapshot: {listed}")


def _data_disk(snapshot: dict[str, Any], gb: int | None) -> Disk:
    size = int(snapshot["VolumeSize"])
    if gb is not None and gb < size:
        raise CloudError(
            f"--data-gb {gb} is smaller than the snapshot {snapshot['SnapshotId']}, which has {size} GB"
        )
    # 500 MB/s: more than a GPU machine of this table decodes; costs two cents an hour.
    return Disk(gb=gb or size, snapshot=snapshot["SnapshotId"], throughput=500, iops=4000)


def _go_on(aws: Aws, asked: Up, found: Found) -> Plan:
    """For a machine that is there: nothing, or its start."""
    run, kind = found.run, found.facts["InstanceType"]
    if found.kind != "train":
        raise CloudError(f"{run} is a machine that prepares data; give another --name")
    if kind != asked.instance:
        raise CloudError(
            f"{run} has a {kind} already; take it down first (./scripts/cloud down {run}), or give another --name"
        )
    asked = replace(asked, ssm=tag(found.facts, "Access") == "ssm")  # it stays reached as it was made
    told = f"{run}: {found.id}, a {kind} in {found.zone}, is {found.state}"
    if found.state == "stopping":
        raise CloudError(f"{told}; try again in a minute")
    if found.interrupted and found.state == "stopped":
        later = f"AWS starts it again by itself, and the run goes on; not to wait: ./scripts/cloud down {run}"
        return Plan([f"{told}: {found.interrupted}; {later}"])

    def let_me_in() -> None:
        if not asked.ssm:
            let_in(aws, run, "train", asked.ssh_from or own_address(), here=not asked.ssh_from)

    def reach(say: Say) -> None:
        let_me_in()
        _tell(aws, run, say)

    if found.state != "stopped":
        todo = "  it goes on as it was asked to, nothing new is made; what is new counts from its next start by `up`"
        return Plan([told, todo], reach)
    _check(asked)
    if asked.recipe != "digits" and not found.data_volume:
        raise CloudError(
            f"{run} was made without a data set, which {asked.recipe} needs; take it down first (./scripts/cloud down "
            f"{run}), or give another --name"
        )
    rights = _rights(aws, asked)
    require_profile(found.facts, run, rights)
    said = f"{found.said.state}: {found.said.words}".rstrip(": ")
    ended = f"; it has said: {said}" if said else ""
    price = places(aws, kind, spot=True, zone=found.zone)[0].usd_per_hour if found.spot else None
    hourly = on_demand(kind) if price is None else price
    user_data = _user_data(aws, asked, hourly, data=found.data_volume is not None)

    def start(say: Say) -> None:
        let_me_in()
        keep_secrets(aws, run, "train", asked.secrets)
        start_again(aws, found.facts, run, "train", user_data, rights)
        _tell(aws, run, say)

    goes_on = [
        "  it starts again, on the disks it has, and goes on with what is asked for now:",
        f"  trainer train {asked.recipe} {shlex.join(_arguments(asked, hourly))}",
        f"  {asked.repository} at {asked.revision[:12]}",
        f"  mirrored to {asked.runs_remote or 'nothing'}; secrets: {', '.join(asked.secrets) or 'none'}",
    ]
    return Plan(
        [f"{told}{ended}", *goes_on], start, [machine_cost(kind, hourly, spot=found.spot)], "Start it?"
    )


def _tell(aws: Aws, run: str, say: Say) -> None:
    def running() -> bool:
        there = find_machine(aws, run)
        return there is not None and there["State"]["Name"] == "running"

    wait_until(running, "the start of the machine")
    found = Found(find_machine(aws, run) or {})
    say(f"{found.id} runs in {found.zone}, at {found.address or 'no public address'}")
    say("next: ./scripts/cloud status · ./scripts/cloud ui · ./scripts/cloud down " + run)
