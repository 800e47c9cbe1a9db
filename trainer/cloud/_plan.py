"""What a command is about to do: told first, done when it is agreed to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trainer.cloud._prices import Cost, cost_lines

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """Lines that say what there is and what would be made, and the function that makes it."""

    told: list[str]
    make: Callable[[Say], None] | None = None  # None: there is nothing to do
    costs: list[Cost] = field(default_factory=list)  # of what is made, while it is there
    asks: str = ""  # the question before it is made; empty: it costs and destroys nothing

    @property
    def lines(self) -> list[str]:
        """All that is told."""
        return [
            *self.told,
            *(
                [
                    "it costs, while it is there (disks, and machines on demand, at the prices of us-east-1):",
                    *cost_lines(self.costs),
                ]
                if self.costs
                else []
            ),
        ]
