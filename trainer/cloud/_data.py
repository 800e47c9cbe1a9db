"""`trainer cloud data`: a data set on a volume, filled by a machine without a GPU, and kept as a snapshot."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from trainer.cloud._account import CPU_IMAGE, require_quota
from trainer.cloud._again import require_profile, settings, start_again, told
from trainer.cloud._aws import Aws, by_tag, passes, run_name, tags, wait_until
from trainer.cloud._down import remove, things
from trainer.cloud._launch import (
    DATA_DEVICE,
    Disk,
    Machine,
    Statement,
    find_machine,
    launch,
    newest_image,
    places,
)
from trainer.cloud._machine import Found, Said, look
from trainer.cloud._plan import Plan, Say
from trainer.cloud._prices import (
    CPU_INSTANCES,
    elsewhere,
    machine_cost,
    on_demand,
    snapshot_cost,
    volume_cost,
)
from trainer.cloud._rights import (
    check_secrets,
    keep_secrets,
    may_read_secrets,
    may_use_s3,
    parameter_name,
    require_bucket,
)
from trainer.cloud._user_data import render_data
from trainer.errors import CloudError

# What each source asks for; docs/data.md says where it is to be had.
NEEDED = {"huggingface": ("HF_TOKEN",), "kaggle": ("KAGGLE_USERNAME", "KAGGLE_KEY")}
HOURS = 48  # after so long, nobody waits here any more
LAG = 600  # seconds by which a console may be behind the stop of its machine
ENDS = ("ready", "failed")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What was asked for."""

    source: Sequence[str]  # the words after `trainer prepare`
    repository: str
    revision: str = ""  # empty: the repository's default branch
    name: str = "imagenet"
    instance: str = "c6i.2xlarge"
    gb: int = 200  # ImageNet as published has 154
    shorter_side: int | None = None
    zone: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    instance_profile: str | None = None
    wait: bool = True

    @property
    def downloads(self) -> bool:
        """Whether the archive is on the root disk before it is read."""
        return list(self.source) == ["kaggle"] or any(
            "magnet:" in one or ".torrent" in one for one in self.source
        )


def plan_data(aws: Aws, asked: Data) -> Plan:
    """What is there of this data set, and the next step towards its snapshot. Raises: CloudError, ConfigError."""
    run = run_name(asked.name)
    snapshot, there = _snapshot(aws, run), find_machine(aws, run)
    found = look(aws, there) if there else None
    if found and found.kind != "data":
        raise CloudError(f"{run} is a machine that trains; give another --name")
    if snapshot or (found and found.state == "stopped" and found.said.state == "ready"):
        return _keep(aws, run, found, snapshot)
    if found is None:
        return _begin(aws, asked)
    ended = f"; it {found.said.state}: {found.said.words}" if found.said.words else ""
    line = f"{run}: {found.id}, a {found.facts['InstanceType']} in {found.zone}, is {found.state}{ended}"
    _require_same(aws, asked, found)
    if found.state != "stopped":
        return Plan([line], lambda say: _follow(aws, asked, say))

    machine = _machine(aws, asked)
    require_profile(found.facts, run, machine.rights)

    def start(say: Say) -> None:
        keep_secrets(aws, run, "data", asked.secrets)
        start_again(aws, found.facts, run, "data", machine.user_data, machine.rights)
        _follow(aws, asked, say)

    cost = machine_cost(found.facts["InstanceType"], on_demand(found.facts["InstanceType"]), spot=False)
    return Plan([line, "  it starts again, and goes on where it was"], start, [cost], "Start it?")


def _require_same(aws: Aws, asked: Data, found: Found) -> None:
    """Raises: CloudError if a machine prepares another data set than is asked for."""
    there, wanted = told(aws, found.id), settings(_user_data(aws, asked))
    if any(there.get(name, wanted[name]) != wanted[name] for name in ("SOURCE", "SHORTER_SIDE")):
        raise CloudError(
            f"{found.run} is being prepared from {there['SOURCE'].strip('()')}"
            f"{' at ' + there['SHORTER_SIDE'] + ' pixels' if there.get('SHORTER_SIDE', '').isdigit() else ''}; take it "
            f"down first (./scripts/cloud down {found.run}), or give another --name"
        )


def _user_data(aws: Aws, asked: Data) -> str:
    return render_data(
        source=shlex.join(asked.source),
        destination_device=DATA_DEVICE,
        repository=asked.repository,
        revision=asked.revision,
        secrets_parameter=parameter_name(asked.name) if asked.secrets else None,
        shorter_side=asked.shorter_side,
        stop_when_done=True,
        region=aws.region,
    )


def _begin(aws: Aws, asked: Data) -> Plan:
    run, machine = asked.name, _machine(aws, asked)
    where = places(aws, asked.instance, spot=False, zone=asked.zone)
    told = [
        f"{run}: {shlex.join(asked.source)} on a new {asked.instance} in {where[0].zone}, without a GPU",
        f"  image {machine.image.id}, an empty volume of {asked.gb} GB for the images, no port open",
        f"  it may do in AWS: {machine.may}",
        "  it prepares and checks every image and stops itself; this command then makes a snapshot and takes it down",
        f"  the snapshot stays: up to ${snapshot_cost(asked.gb).usd_per_month:.2f} a month, for what was written",
        *elsewhere(aws.region),
    ]
    costs = [
        machine_cost(asked.instance, on_demand(asked.instance), spot=False),
        volume_cost("root disk", machine.root.gb),
        volume_cost("the images' volume", asked.gb, mb=250),
    ]

    def make(say: Say) -> None:
        keep_secrets(aws, run, "data", asked.secrets)
        say(f"{launch(aws, machine, where)['InstanceId']} is made")
        _follow(aws, asked, say)

    return Plan(told, make, costs, f"Make it, for ${sum(one.usd_per_hour for one in costs):.2f} an hour?")


def _machine(aws: Aws, asked: Data) -> Machine:
    if asked.instance not in CPU_INSTANCES:
        raise CloudError(
            f"--instance {asked.instance} is not one to prepare data on: {', '.join(CPU_INSTANCES)}"
        )
    missing = [
        one for one in NEEDED.get(asked.source[0], ()) if len(asked.source) == 1 and one not in asked.secrets
    ]
    if missing:
        given = " ".join(f"--secret {one}" for one in missing)
        raise CloudError(
            f"{asked.source[0]} asks for {', '.join(missing)}; export them here, and give {given}"
        )
    check_secrets(asked.secrets)
    rights: list[Statement] = [may_read_secrets(aws, asked.name)] if asked.secrets else []
    for one in asked.source:
        if one.startswith("s3://"):
            rights += may_use_s3(one, write=False)
            require_bucket(aws, one)
    require_quota(aws, asked.instance, spot=False)
    newest = newest_image(aws, CPU_IMAGE)
    return Machine(
        run=asked.name,
        kind="data",
        instance=asked.instance,
        image=newest,
        user_data=_user_data(aws, asked),
        root=Disk(gb=max(240 if asked.downloads else 40, newest.gb), throughput=250),
        data=Disk(gb=asked.gb, throughput=250),
        profile=asked.instance_profile,
        rights=rights,
    )


def _follow(aws: Aws, asked: Data, say: Say) -> None:
    """Wait for the end of the machine, and go on with the snapshot."""
    run = asked.name
    if not asked.wait:
        say(
            "it goes on without this computer; the same command goes on from there, and makes the snapshot at the end"
        )
        return
    say("waiting; interrupted, the machine goes on, and the same command waits again")
    last, said, found = "", Said(), None

    def stopped() -> bool:
        nonlocal last, said, found
        try:
            if (there := find_machine(aws, run)) is None:
                raise CloudError(f"the machine of {run} is gone; the same command makes another")
            found = look(aws, there)
        except Exception as error:
            if not passes(error):
                raise
            line = "AWS cannot be reached now; the machine goes on, and this tries again"
        else:
            # What AWS has kept of a console may be older than what was read while the machine ran.
            if (found.said.number("starts") or 0) >= (said.number("starts") or 0):
                said = found.said
            line = f"{found.state}: {said.state} {said.words}".strip()
        if line != last:
            say(last := line)
        return found is not None and found.state == "stopped"

    def ended() -> bool:
        return stopped() and said.state in ENDS

    wait_until(stopped, f"preparing {run}", seconds=HOURS * 3600, polls=6)
    with suppress(CloudError):
        wait_until(ended, f"the console of {run}", seconds=LAG, polls=6)
    assert found is not None
    if said.state != "ready":
        why = (
            said.words
            if said.state == "failed"
            else "its machine has stopped, and its console does not say why"
        )
        raise CloudError(
            f"{run} was not prepared: {why}; the same command goes on where it was, ./scripts/cloud down {run} takes "
            "all of it down"
        )
    plan = _keep(aws, run, found, None)
    assert plan.make is not None
    plan.make(say)


def _snapshot(aws: Aws, run: str) -> dict[str, Any] | None:
    found = aws.pages("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=by_tag(run, "data"))
    return next((one for one in found if one["State"] != "error"), None)


def _keep(aws: Aws, run: str, found: Found | None, snapshot: dict[str, Any] | None) -> Plan:
    """Make the snapshot if it is missing, wait for it, and take down the rest."""
    around = [one for one in things(aws, run) if one.kind != "snapshot"]
    if snapshot and snapshot["State"] == "completed" and not around:
        cost = snapshot_cost(snapshot["VolumeSize"])
        return Plan(
            [f"{run}: {snapshot['SnapshotId']}, up to ${cost.usd_per_month:.2f} a month; {_next(snapshot)}"]
        )

    def make(say: Say) -> None:
        kept = snapshot
        if kept is None:
            assert found is not None
            specifications = [{"ResourceType": "snapshot", "Tags": tags(run, "data")}]
            kept = aws.ec2.create_snapshot(
                VolumeId=found.data_volume,
                Description=f"trainer cloud: {run}",
                TagSpecifications=specifications,
            )
        name = kept["SnapshotId"]
        say(f"{name} is being made")

        def completed() -> bool:
            state = aws.ec2.describe_snapshots(SnapshotIds=[name])["Snapshots"][0]["State"]
            if state == "error":
                raise CloudError(f"AWS could not make the snapshot {name}; the same command makes another")
            return bool(state == "completed")

        wait_until(completed, f"the snapshot {name}", seconds=4 * 3600)
        say(f"{name} is completed; {_next(kept)}")
        remove(aws, run, say, snapshots=False)

    there = (
        f"{snapshot['SnapshotId']} is {snapshot['State']}"
        if snapshot
        else "the images are complete and checked"
    )
    return Plan([f"{run}: {there}; next, the snapshot is completed and the machine taken down"], make)


def _next(snapshot: dict[str, Any]) -> str:
    return f"next: ./scripts/cloud up RECIPE --instance g5.2xlarge --spot --data-snapshot {snapshot['SnapshotId']}"
