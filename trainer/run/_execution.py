"""How this machine executes a run."""

from __future__ import annotations

from trainer.config import Execution
from trainer.distributed import World
from trainer.performance import autotune
from trainer.run._options import TrackedOptions
from trainer.run._plan import Plan


def execution_of(plan: Plan, options: TrackedOptions, world: World) -> Execution:
    """Execution settings as the options give them, and the fastest, measured once, where they give none."""
    return autotune(
        plan.recipe,
        plan.dataset.train,
        world,
        plan.folder,
        batch_per_gpu=options.batch_per_gpu,
        compile=options.compile,
        decoder=options.decoder,
    ).execution
