"""The `trainer` command.

Each subcommand checks its input before it does anything. What the user can mend ends in one
sentence and exit code 2; a stop on request in 75; any other failure is a bug and shows where.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback

from trainer.cli._parser import make_parser
from trainer.errors import TrainerError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    options = make_parser().parse_args(arguments)
    # Before torch is imported. OpenMP's threads spin while they wait for each other; asleep, they leave the
    # core to others. Measured once on 2 cores, digits on the CPU: 7 -> 107 images/s beside another busy
    # process, 194 -> 164 without one. On a GPU nothing waits for them.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        # Imported now and not before: `trainer --help` must not wait for torch.
        command = importlib.import_module(f"trainer.cli._{options.command.replace('-', '_')}")
        return int(command.run(options))
    except TrainerError as error:
        print(f"trainer: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("trainer: interrupted", file=sys.stderr)
        code = 130
    except Exception:
        if not _among_others():
            raise
        traceback.print_exc()
        code = 1
    if _among_others():
        # Without tidying up: on a GPU that may wait for an exchange with a process that is no more, and for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _among_others() -> bool:
    """Whether this process still belongs to a group, which it leaves when all goes well."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and bool(distributed.is_initialized())
