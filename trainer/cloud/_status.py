"""`trainer cloud status`: what is there, how far it is, and what it has cost."""

from __future__ import annotations

from typing import Any

from trainer.cloud._aws import Aws, by_tag
from trainer.cloud._launch import ALIVE
from trainer.cloud._machine import Found, disks, look, usd_per_hour
from trainer.cloud._prices import snapshot_cost


def status(aws: Aws, run: str | None) -> list[dict[str, Any]]:
    """One entry for each machine, and for each snapshot of a data set."""
    filters = [*by_tag(run), {"Name": "instance-state-name", "Values": ALIVE}]
    machines = [_machine(aws, look(aws, one)) for one in aws.instances(Filters=filters)]
    kept = aws.pages("describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=by_tag(run))
    return [*machines, *({"snapshot": one["SnapshotId"], **_snapshot(one)} for one in kept)]


def _machine(aws: Aws, found: Found) -> dict[str, Any]:
    an_hour, hours = usd_per_hour(aws, found), found.hours()
    disk, disk_hours = disks(aws, found)
    starts = found.said.number("starts")
    machine = None if an_hour is None else an_hour * hours
    return {
        "run": found.run,
        "kind": found.kind,
        "instance": found.id,
        "type": found.facts["InstanceType"],
        "spot": found.spot,
        "zone": found.zone,
        "machine": found.state,
        "state": found.said.state,
        "said": found.said.words,
        "interrupted": found.interrupted,
        "starts": None if starts is None else int(starts),
        "epoch": found.said.number("epoch"),
        "epochs": found.said.number("epochs"),
        "top1": found.said.number("top1"),
        "hours": hours,
        "since_last_start_only": found.said.number("hours") is None,
        "usd_per_hour": an_hour,
        "usd": None if machine is None else machine + disk.usd_per_hour * disk_hours,
        "usd_disks_per_month": disk.usd_per_month,
        "address": found.address,
    }


def _snapshot(one: dict[str, Any]) -> dict[str, Any]:
    run = next((tag["Value"] for tag in one["Tags"] if tag["Key"] == "Run"), "")
    cost = snapshot_cost(one["VolumeSize"]).usd_per_month
    return {"run": run, "state": one["State"], "gb": one["VolumeSize"], "usd_per_month_at_most": cost}


def shown(one: dict[str, Any]) -> list[str]:
    """An entry in words."""
    if "snapshot" in one:
        most = one["usd_per_month_at_most"]
        return [f"{one['run']}: {one['snapshot']}, {one['gb']} GB, {one['state']}, up to ${most:.2f} a month"]
    lines = [
        f"{one['run']}: {one['instance']}, {one['type']}{' spot' if one['spot'] else ''} in {one['zone']}, "
        f"{one['machine']}{', ' + one['address'] if one['address'] else ''}"
    ]
    state = one["state"] or "has said nothing on its console yet (or an hour after its end, no more)"
    if one["epoch"] is not None:
        state += f", epoch {one['epoch']:.0f}" + (f" of {one['epochs']:.0f}" if one["epochs"] else "")
    if one["top1"] is not None:
        state += f", top-1 {one['top1']:.2%}"
    lines.append(f"  {state}{': ' + one['said'] if one['said'] else ''}")
    if one["interrupted"]:
        lines.append(f"  interrupted: {one['interrupted']}; it goes on when AWS starts it again")
    if one["starts"]:
        lines.append(f"  interrupted or stopped {one['starts'] - 1} times so far")
    since = " since its last start" if one["since_last_start_only"] else ""
    usd = "?" if one["usd"] is None else f"${one['usd']:.2f}"
    price = "?" if one["usd_per_hour"] is None else f"${one['usd_per_hour']:.3f}"
    if not one["spot"] and not one["zone"].startswith("us-east-1"):
        price += " (us-east-1's)"
    disk = f"disks at ${one['usd_disks_per_month']:.2f} a month"
    lines.append(f"  {usd} so far: {one['hours']:.1f} h{since} at {price}, and {disk}")
    return lines
