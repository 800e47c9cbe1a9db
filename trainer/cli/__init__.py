"""The `trainer` command.

Each command is one module of this package, with its arguments and what it runs; a new one is a new file. It has
NAME, GROUP, ORDER (in the group), HELP (a line), EXAMPLE, `add_arguments(parser)` and `run(options) -> exit code`, and
imports what takes long inside `run`: `trainer --help` and a wrong argument do not wait for torch.

What the user can mend ends in one sentence and exit code 2; a stop on request in 75; any other failure is a bug and
shows its traceback.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import pkgutil
import signal
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from trainer import __version__, ranks
from trainer.cli._host import with_host_folders
from trainer.errors import ProcessesFailed, TrainerError
from trainer.hints import nearest
from trainer.processes import spare_libraries
from trainer.supervisor import supervise

# The user's way through the commands.
GROUPS = {
    "data": "data sets",
    "train": "training",
    "look": "looking at models and runs",
    "ship": "shipping",
    "measure": "measuring this machine",
}

# What a disk says of a name, a right or its room, and not of its health: that is for whoever starts a run again.
REFUSALS = {
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOENT),
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
}
DECODING = ("train", "extend", "evaluate", "find-lr", "report")  # commands that hand files to native decoders


def program() -> int:
    """What a shell calls as `trainer`: `main`, and where an image has taken it down, the name of that image."""
    spare_libraries()
    if sys.flags.optimize > 1:
        print(
            "trainer: DALI needs the docstrings that PYTHONOPTIMIZE=2 takes away; unset it", file=sys.stderr
        )
        return TrainerError.exit_code
    if sys.argv[1:2] not in [[name] for name in DECODING] or ranks.has_rank():
        return main()
    with tempfile.TemporaryDirectory(prefix="trainer-", ignore_cleanup_errors=True) as notes:
        os.environ[ranks.IN_HAND] = notes
        return supervise(main, lambda: _name_culprit(notes))


def _name_culprit(notes: str) -> int | None:
    from trainer.dataloader import culprit_of

    if error := culprit_of(Path(notes)):
        print(f"trainer: {error}", file=sys.stderr)
        return error.exit_code
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # A name that the terminal's encoding lacks is shown with escapes, as on stderr; it is no error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    options = make_parser(arguments).parse_args(arguments)
    # Before torch is imported. OpenMP's threads spin while they wait for each other; asleep, they leave the
    # core to others. Measured once on 2 cores, digits on the CPU: 7 -> 107 images/s beside another busy
    # process, 194 -> 164 without one. On a GPU nothing waits for them.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        code = int(options.run(options))
        if sys.stdout:  # None where it was closed
            sys.stdout.flush()
        return code
    except ProcessesFailed as error:  # they have said why
        code = error.exit_code
    except TrainerError as error:
        print(f"trainer: {with_host_folders(str(error))}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("trainer: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # whoever read the output has seen enough, as `| head`
        _mute()
        code = 128 + signal.SIGPIPE
    except Exception as error:
        if _in_process_group():
            traceback.print_exc()
            code = 1  # all are started again
        elif refused := _refused(error):
            if _full(error):
                _mute()
            print(f"trainer: {with_host_folders(refused)}", file=sys.stderr)
            code = TrainerError.exit_code
        else:
            raise
    if _in_process_group():
        # Without tidying up: on a GPU that may wait for an exchange with a process that is no more, and for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def make_parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser of the whole command line, or only of the command that `arguments` begin with, which is faster."""
    parser = argparse.ArgumentParser(
        prog="trainer",
        usage="trainer [-h] [--version] COMMAND …",
        description="Train ResNet-50 on ImageNet, track it in MLflow, register and export the model.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"trainer {__version__}")
    subparsers = parser.add_subparsers(
        metavar="COMMAND", required=True, help=argparse.SUPPRESS, prog="trainer"
    )
    command = arguments[0] if arguments else ""
    if command in command_names():
        _add_command(subparsers, _command_module(command))
        return parser
    if command and not command.startswith("-"):
        hint = nearest(command, command_names()) or f"; commands are {', '.join(command_names())}"
        parser.error(f"there is no command {command!r}{hint}")
    modules = sorted((_command_module(name) for name in command_names()), key=lambda module: module.ORDER)
    for module in modules:
        _add_command(subparsers, module)
    lines = []
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {module.NAME:<10} {module.HELP}" for module in modules if group == module.GROUP]
    lines += ["", "Each command has --help with an example. Exit codes: 0 done, 2 the input is wrong,"]
    lines += ["75 stopped on request with everything saved: the same command goes on."]
    parser.epilog = "\n".join(lines).strip()
    return parser


def command_names() -> list[str]:
    """Names of all commands, from the names of their modules."""
    modules = (info.name for info in pkgutil.iter_modules(__path__))
    return sorted(
        name[1:].replace("_", "-")
        for name in modules
        if name not in ("_args", "_budget_table", "_curves", "_host", "_live_line", "_terminal")
    )


def _command_module(name: str) -> Any:
    return import_module(f"{__name__}._{name.replace('-', '_')}")


def _add_command(subparsers: Any, module: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        module.NAME,
        description=f"{module.HELP[0].upper()}{module.HELP[1:]}.",
        epilog=f"example:  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


def _refused(error: Exception) -> str:
    """A sentence about what a disk refuses, wherever a file is used: a name, a right, room; empty for other errors."""
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return ""
    if error.errno == errno.ENOENT:
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the current folder is gone; change to another"
        return ""
    if error.filename is not None:
        file = os.fsdecode(error.filename)
        return f"{file}: {error.strerror}; look what is there, at its owner and its disk, or name another"
    return (
        f"{error.strerror}; make room where the output goes, and on the disk of --runs"
        if _full(error)
        else ""
    )


def _full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _mute() -> None:
    """Drop what nobody takes any more of standard output, at the end too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_process_group() -> bool:
    """Whether this process still belongs to a process group of torch, which it leaves when all goes well."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and bool(distributed.is_initialized())
