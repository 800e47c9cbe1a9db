"""`trainer train`."""

from __future__ import annotations

import json
import os
import typing
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trainer.cli import _args
from trainer.run import Plan, RunResult, StartOptions, TrainOptions, Weights, read_result, within_budget
from trainer.stop import stop_at_once

NAME, GROUP, ORDER = "train", "train", 4
HELP = "train a recipe and register the model; the same command again goes on where it was"
EXAMPLE = "trainer train rn50-baseline --data /data/imagenet --set epochs=30"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    _args.add_run(parser)
    parser.add_argument(
        "--from",
        dest="from_",
        metavar="MODEL",
        help="begin with the weights of this model: a run folder, a checkpoint file, models:/NAME/VERSION, "
        "models:/NAME@ALIAS, runs:/RUN_ID, or a recipe (its candidate)",
    )
    parser.add_argument(
        "--weights",
        choices=typing.get_args(Weights),
        help="with --from and a checkpoint: its last weights, or their moving average (default: what was or would be "
        "registered)",
    )
    _args.add_trust(parser)
    parser.add_argument(
        "--fit",
        action="store_true",
        help="fit the run to --max-hours or --max-dollars: fewer epochs, a schedule of the same shape",
    )
    add_start(parser)


def _add_budget(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--instance",
        metavar="NAME",
        help="type of AWS that this machine is, such as g5.xlarge: its price, and how long the run should take on it",
    )
    parser.add_argument(
        "--max-hours",
        type=_args.positive_float,
        metavar="N",
        help="hours of training, all starts together; refused if the run is expected to take more",
    )
    parser.add_argument(
        "--max-dollars",
        type=_args.positive_float,
        metavar="USD",
        help="what these hours may cost; needs --price or --instance",
    )
    parser.add_argument(
        "--until-top1",
        type=_args.fraction,
        metavar="TOP1",
        help="finish after the evaluation that reaches this accuracy, such as 0.75",
    )


def add_start(parser: ArgumentParser) -> None:
    """The arguments of `StartOptions` that `_args.add_run` lacks, and --dry-run."""
    _args.add_nproc(parser)
    _add_budget(parser)
    defaults = StartOptions
    parser.add_argument("--name", help="name of the run (default: the recipe's)")
    parser.add_argument(
        "--checkpoint-interval",
        type=_args.positive_float,
        default=defaults.checkpoint_interval,
        metavar="SECONDS",
        help="seconds of training between two checkpoints (default: 60); each epoch ends with one as well",
    )
    parser.add_argument(
        "--max-restarts",
        type=_args.non_negative_int,
        default=defaults.max_restarts,
        metavar="N",
        help="restarts of all processes after crashes without progress (default: 3)",
    )
    parser.add_argument(
        "--timeout",
        type=_args.positive_float,
        default=defaults.timeout,
        metavar="SECONDS",
        help="seconds after which a process that does not answer the others is called stuck (default: 600)",
    )
    parser.add_argument(
        "--price",
        type=_args.positive_float,
        default=os.environ.get("TRAINER_PRICE_PER_HOUR") or None,
        metavar="USD",
        help="price of this machine per hour, in US dollars, to show what the run costs "
        "(default: $TRAINER_PRICE_PER_HOUR)",
    )
    _args.add_runs_remote(
        parser,
        "where the run is mirrored, so that another machine goes on with it: s3://BUCKET/PREFIX, or a folder of a "
        "shared disk",
    )
    parser.add_argument(
        "--mirror-every",
        type=_args.positive_float,
        default=defaults.mirror_every,
        metavar="SECONDS",
        help="seconds that the mirror may be behind (default: 600); it is up to date after each epoch as well",
    )
    parser.add_argument(
        "--unmirrored",
        action="store_true",
        help="start although the mirror cannot be used; it is tried again while training goes on",
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write TensorBoard's event file too, to the folder tensorboard in the run's",
    )
    parser.add_argument(
        "--no-report",
        action="store_true",
        help="leave out the report at the end; trainer report makes it later",
    )
    parser.add_argument(
        "--no-export",
        action="store_true",
        help="leave out the bundle at the end; trainer export --log makes it later",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, show the plan, train nothing"
    )


def run(options: Namespace) -> int:
    """Train, or show the result if that is done; return the exit code."""
    with stop_at_once("what was done is kept, start the same command again to go on"):
        return _run(options)


def _run(options: Namespace) -> int:
    given = _args.options_of(TrainOptions, options)
    from trainer.cli._terminal import ConsoleLog, configure_logging

    configure_logging()
    if options.dry_run:
        budgeted = within_budget(given)
        if not read_result(budgeted.plan.folder):
            show_plan(budgeted.plan, budgeted.options, budgeted.told)
            return 0
    from trainer.run import train_run

    if result := train_run(given, display=ConsoleLog):
        if options.json:
            print(json.dumps(result.as_dict()))
        else:
            show(result, given)
    return 0


def show(result: RunResult, given: StartOptions) -> None:
    """Print what came out."""
    from trainer.cli._terminal import show_table
    from trainer.mirror import read_state
    from trainer.run import duration
    from trainer.tracking import local_url, read_run_ref

    ref = read_run_ref(Path(result.run))
    runs = "" if given.runs == StartOptions.runs or result.url else f" --runs {given.runs}"
    rows = {
        "top-1": f"{result.top1:.2%} of {result.num_images:,} validation images",
        "top-5": f"{result.top5:.2%}",
        "images/s": f"{result.images_per_second:,.0f} on {result.device}",
        "time": duration(3600 * result.hours) + (f", ${result.usd:,.2f}" if result.usd is not None else ""),
        "run": result.run,
        "model": f"{result.model} (version {result.version})",
        **({"report": result.report} if result.report else {}),
        **({"bundle": result.bundle} if result.bundle else {}),
        **({"mirror": str(state)} if given.runs_remote and (state := read_state(Path(result.run))) else {}),
        "watch": result.url or f"mlflow ui --backend-store-uri {result.tracking_uri}",
        **({"open": local_url(ref)} if ref and not result.url else {}),
        # In Compose, whose folders these are, the export is a service.
        "next": "docker compose run --rm export"
        if "TRAINER_RUNS_DIR" in os.environ
        else f"trainer export {result.model} --out bundle{runs}",
    }
    if result.again:
        rows["again"] = "to train from the start, give the new run a name with --name"
    show_table("this run is finished already; nothing was trained" if result.again else "finished", rows)


def show_plan(plan: Plan, given: StartOptions, budget: str = "") -> None:
    """Check all that a start would, and print it."""
    from trainer.cli._terminal import show_table
    from trainer.dataset import completeness
    from trainer.run import proof_of

    recipe, dataset = plan.recipe, plan.dataset
    against = completeness(dataset)
    with proof_of(plan, given, dry=True) as proof:
        from trainer.run import check_mirror, network_summary, preflight

        (processes, tracking), summary = preflight(plan, given, proof), network_summary(plan)
    steps = recipe.steps_per_epoch(len(dataset.train))
    share = recipe.global_batch // processes
    at_a_time = "as many at a time as the device takes"  # known when it was tried
    if given.batch_per_gpu:
        accumulation_steps = recipe.accumulation_steps(processes, given.batch_per_gpu)
        at_a_time = f"{share // accumulation_steps} at a time, {accumulation_steps} accumulation step(s)"
    cost = summary.line() if summary else "whose layers cannot be counted here, see `trainer summary`"
    show_table(
        "all is well; nothing was started",
        {
            "model": f"{recipe.model}, {cost}",
            "data": f"{dataset.name}, {len(dataset.classes):,} classes, "
            f"{len(dataset.train):,} training and {len(dataset.val):,} validation images"
            + (f"; {against.describe()}" if against else ""),
            "steps": f"{recipe.epochs} epochs of {steps:,} steps of {recipe.global_batch:,} images",
            "batch": f"{processes} process(es) with {share} images of each step; {at_a_time}",
            "peak lr": f"{recipe.peak_lr:g}",
            **({"phases": "; ".join(recipe.describe_phases().values())} if recipe.phases else {}),
            "run": str(plan.folder),
            "MLflow": tracking,
            **({"mirror": mirror} if (mirror := check_mirror(plan, given)) else {}),
            **({"budget": budget} if budget else {}),
            **({"new": plan.news} if plan.news else {}),
        },
    )
