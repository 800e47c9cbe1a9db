"""`trainer cloud`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import CloudError, ConfigError

if TYPE_CHECKING:
    from trainer.cloud import Aws, Plan

# This file imports nothing that needs more than Python, for it runs where there is no torch: scripts/cloud.

NAME, GROUP, ORDER = "cloud", "train", 9
HELP = "rent a machine of AWS for a data set or a run, look at it, and take all of it down"
EXAMPLE = "trainer cloud up rn50-75 --instance g5.2xlarge --spot --max-dollars 15 --dry-run"


def add_arguments(parser: ArgumentParser) -> None:
    """A parser for each step."""
    steps = parser.add_subparsers(metavar="STEP", required=True, dest="step", prog="trainer cloud")

    def add(name: str, about: str, do: Callable[[Namespace], int]) -> ArgumentParser:
        one = steps.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False
        )
        one.add_argument(
            "--region", metavar="NAME", help="region of AWS (default: that of your AWS settings)"
        )
        one.set_defaults(do=do)
        return one

    check = add(
        "check", "check that your account can start a machine: quotas, prices, image, key, network", _check
    )
    check.add_argument(
        "--instance", default="g5.2xlarge", metavar="TYPE", help="type to start (default: g5.2xlarge)"
    )
    _add_key(check)
    check.add_argument("--json", action="store_true", help="print the result as JSON")

    data = add("data", "prepare a data set on a machine without a GPU, and keep it as a snapshot", _data)
    data.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help="what trainer prepare takes: huggingface, kaggle, 'imagenette --size 320', imagenet s3://TRAIN s3://VAL, "
        "a magnet link, …; or fetch s3://BUCKET/FOLDER for a prepared one",
    )
    data.add_argument("--name", default="imagenet", help="name of what is made (default: imagenet)")
    data.add_argument(
        "--instance", default="c6i.2xlarge", metavar="TYPE", help="its type (default: c6i.2xlarge)"
    )
    data.add_argument("--gb", type=_positive(int), default=200, help="size of the volume (default: 200)")
    data.add_argument("--shorter-side", type=_positive(int), metavar="PX", help="store larger images smaller")
    data.add_argument("--no-wait", action="store_true", help="return at once; the same command goes on later")
    _add_machine(data)

    up = add("up", "start a machine that trains, and stops itself at the end", _up)
    up.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe")
    up.add_argument("--instance", required=True, metavar="TYPE", help="GPU instance, such as g5.2xlarge")
    up.add_argument("--spot", action="store_true", help="a spot instance, which AWS may stop and start again")
    up.add_argument(
        "--max-price", type=_positive(float), metavar="USD", help="the most for an hour of a spot instance"
    )
    up.add_argument("--name", help="name of what is made (default: that of the recipe)")
    up.add_argument(
        "--data-snapshot", metavar="ID", help="snapshot of the data set (default: the one there is)"
    )
    up.add_argument(
        "--data-gb", type=_positive(int), metavar="GB", help="size of its volume (default: the snapshot's)"
    )
    up.add_argument(
        "--root-gb", type=_positive(int), default=150, metavar="GB", help="root disk (default: 150)"
    )
    up.add_argument("--runs-remote", metavar="URL", help="s3://BUCKET/PREFIX where the run is mirrored to")
    up.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a line for .env, nothing secret"
    )
    up.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of trainer train")
    up.add_argument("--max-hours", type=_positive(float), metavar="N", help="as of trainer train")
    up.add_argument("--max-dollars", type=_positive(float), metavar="USD", help="as of trainer train")
    up.add_argument("--until-top1", type=_fraction, metavar="TOP1", help="as of trainer train")
    up.add_argument("--fit", action="store_true", help="as of trainer train")
    up.add_argument("--revision", metavar="COMMIT", help="commit, branch or tag (default: the one here)")
    up.add_argument("--keep", action="store_true", help="leave the machine on when the run has ended")
    _add_key(up)
    up.add_argument(
        "--ssh-from",
        type=_network,
        metavar="CIDR",
        help="who may come in by SSH (default: this computer's address)",
    )
    _add_machine(up)

    look = add("status", "show what is there, how far it is, and what it has cost", _status)
    look.add_argument("name", nargs="?", metavar="NAME", help="one of them (default: all)")
    look.add_argument("--json", action="store_true", help="print the result as JSON")

    ui = add("ui", "open a tunnel to MLflow on the machine", _ui)
    ui.add_argument("name", nargs="?", metavar="NAME", help="which, if there are several")
    ui.add_argument("--port", type=_positive(int), default=5000, help="port of this computer (default: 5000)")
    ui.add_argument("--identity", metavar="FILE", help="private SSH key, if it is not ssh's default")
    ui.add_argument(
        "--ssh-from",
        type=_network,
        metavar="CIDR",
        help="who may come in by SSH (default: this computer's address)",
    )
    ui.add_argument("--print", action="store_true", help="only print the command")

    down = add("down", "take down all that was made, but the snapshots of data sets", _down)
    down.add_argument("name", nargs="?", metavar="NAME", help="one of them (default: all)")
    down.add_argument("--snapshots", action="store_true", help="delete the snapshots as well")
    _add_agreement(down)


def _add_machine(parser: ArgumentParser) -> None:
    parser.add_argument("--zone", metavar="NAME", help="availability zone (default: where it is cheapest)")
    parser.add_argument(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="variable of this shell for the machine, by SSM",
    )
    parser.add_argument(
        "--repository", metavar="URL", help="where the code is cloned from (default: git's origin)"
    )
    parser.add_argument(
        "--instance-profile", metavar="NAME", help="your own (default: one that may do what is needed)"
    )
    _add_agreement(parser)


def _add_key(parser: ArgumentParser) -> None:
    parser.add_argument("--key", metavar="NAME", help="key pair in EC2 (default: the public key in ~/.ssh)")
    parser.add_argument("--ssm", action="store_true", help="reach it by SSM's session manager, without SSH")


def _add_agreement(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and what it costs, no more"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _positive(kind: type[float]) -> Callable[[str], Any]:
    def parse(text: str) -> float:
        try:
            if (value := kind(text)) > 0 and value != float("inf"):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' if kind is int else ''}number above 0")

    return parse


def _network(text: str) -> str:
    try:
        return str(IPv4Network(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no IPv4 address or network such as 203.0.113.7/32"
        ) from None


def _fraction(text: str) -> Any:
    if (value := _positive(float)(text)) < 1:
        return value
    raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1, such as 0.75")


def run(options: Namespace) -> int:
    """Do one step, with what AWS refuses in a sentence."""
    from trainer.cloud import aws_errors

    with aws_errors():
        return int(options.do(options))


def _aws(options: Namespace) -> Aws:
    from trainer.cloud import Aws

    return Aws(options.region)


def _check(options: Namespace) -> int:
    from trainer.cloud import look_at

    keys = [str(path) for path in _public_keys()]
    found = []
    for finding in look_at(_aws(options), options.instance, options.key, keys, ssm=options.ssm):
        found.append(finding)
        if not options.json:
            mark = "ok" if finding.good else "MISSING" if finding.needed else "-"
            print(f"{mark:<8} {finding.what}: {finding.found}")
            if not finding.good and finding.todo:
                print(f"{'':<8} {finding.todo}")
    bad = [one.what for one in found if one.needed and not one.good]
    if options.json:
        print(json.dumps({"good": not bad, "findings": [one._asdict() for one in found]}))
    if bad:
        raise CloudError(f"{options.instance} cannot be started yet: {', '.join(bad)}; see above")
    return 0


def _data(options: Namespace) -> int:
    from trainer.cloud import Data, origin, plan_data, pushed_commit, require_clonable

    asked = Data(
        source=[word for one in options.source for word in shlex.split(one)],
        repository=require_clonable(options.repository or origin()),
        revision="" if options.repository else pushed_commit(),
        name=options.name,
        instance=options.instance,
        gb=options.gb,
        shorter_side=options.shorter_side,
        zone=options.zone,
        secrets=_secrets(options),
        instance_profile=options.instance_profile,
        wait=not options.no_wait,
    )
    return _carry_out(plan_data(_aws(options), asked), options)


def _up(options: Namespace) -> int:
    from trainer.cloud import Up, origin, plan_up, pushed_commit, require_clonable

    budgets = ("max_hours", "max_dollars", "until_top1")
    given = {name: getattr(options, name) for name in budgets if getattr(options, name) is not None}
    arguments = [
        word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", f"{value:g}")
    ]
    settings = [word for one in options.set for word in ("--set", one)]
    asked = Up(
        recipe=options.recipe,
        instance=options.instance,
        repository=require_clonable(options.repository or origin()),
        revision=options.revision or pushed_commit(),
        name=options.name,
        spot=options.spot,
        max_price=options.max_price,
        zone=options.zone,
        data_snapshot=options.data_snapshot,
        data_gb=options.data_gb,
        root_gb=options.root_gb,
        runs_remote=options.runs_remote,
        arguments=[*arguments, *(["--fit"] if options.fit else []), *settings],
        env=dict(_pair(one) for one in options.env),
        secrets=_secrets(options),
        key=options.key,
        public_key=next(iter(_public_keys()), None),
        ssh_from=options.ssh_from,
        ssm=options.ssm,
        instance_profile=options.instance_profile,
        keep=options.keep,
    )
    return _carry_out(plan_up(_aws(options), asked), options)


def _status(options: Namespace) -> int:
    from trainer.cloud import shown, status

    aws = _aws(options)
    found = status(aws, options.name)
    if options.json:
        print(json.dumps(found))
        return 0
    for one in found:
        print("\n".join(shown(one)))
    if not found:
        print(f"nothing of {options.name or 'trainer'} is in {aws.region}; other regions are not looked at")
    return 0


def _ui(options: Namespace) -> int:
    from trainer.cloud import find_tunnel

    tunnel = find_tunnel(
        _aws(options), options.name, port=options.port, identity=options.identity, ssh_from=options.ssh_from
    )
    print(f"{shlex.join(tunnel.command)}\n{tunnel.url} as long as this runs; Ctrl-C ends it", flush=True)
    if options.port == 5000 and sys.platform == "darwin":
        print("a Mac's AirPlay may have port 5000 already; then give --port 5001")
    if options.print:
        return 0
    try:
        return subprocess.run(tunnel.command).returncode
    except FileNotFoundError:
        raise CloudError(
            f"there is no {tunnel.command[0]} here; install it (for --ssm AWS's command and its Session Manager plugin)"
        ) from None


def _down(options: Namespace) -> int:
    from trainer.cloud import plan_down

    return _carry_out(plan_down(_aws(options), options.name, snapshots=options.snapshots), options)


def _carry_out(plan: Plan, options: Namespace) -> int:
    """Tell, ask, do."""
    print("\n".join(plan.lines), flush=True)
    if options.dry_run or plan.make is None:
        return 0
    if plan.asks and not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError(
                "nobody is here to be asked; look at what would be done with --dry-run, then give --yes"
            )
        if input(f"{plan.asks} [y/N] ").strip().lower() not in ("y", "yes"):
            print("nothing was done")
            return 0
    plan.make(lambda line: print(line, flush=True))
    return 0


def _public_keys() -> list[Path]:
    return [
        path for name in ("id_ed25519", "id_rsa") if (path := Path.home() / ".ssh" / f"{name}.pub").is_file()
    ]


def _secrets(options: Namespace) -> dict[str, str]:
    if missing := [name for name in options.secret if not os.environ.get(name)]:
        raise ConfigError(
            f"--secret {missing[0]} is the name of a variable of this shell, which is not set: export it"
        )
    return {name: os.environ[name] for name in options.secret}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--env {text} is not of the form NAME=VALUE")
    return name, value
