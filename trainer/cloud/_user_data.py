"""The scripts that a machine runs at its start, as text.

A machine needs no rights in AWS to say how it goes: it writes a line to its console (/dev/console), which
`trainer cloud status` reads with ec2:GetConsoleOutput, whenever something changes and at least every five minutes:

    trainer: state=preparing
    trainer: state=ready images=1331167                             the data set is complete and checked
    trainer: state=training epoch=3 epochs=18 top1=0.5712 starts=2 hours=1.25
    trainer: state=finished epoch=18 epochs=18 top1=0.7613 starts=2 hours=9.80
    trainer: state=failed reason=what stopped it, to the end of the line

`starts` counts the starts of the machine, `hours` adds up what it ran over all of them. Both scripts run at each start
of the machine, go on where they were, and shut the machine down at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def render_data(
    *,
    source: str,
    destination_device: str,
    repository: str,
    secrets_parameter: str | None,
    shorter_side: int | None,
    stop_when_done: bool,
    region: str,
) -> str:
    """The script of a machine that prepares a data set."""
    return f"#!/bin/sh\n# {source} {destination_device} {repository} {secrets_parameter} {shorter_side} {region}\n"


def render_train(
    *,
    recipe: str,
    arguments: Sequence[str],
    repository: str,
    revision: str,
    data_device: str,
    copy_to_nvme: bool,
    env: Mapping[str, str],
    env_parameter: str | None,
    keep: bool,
    region: str,
) -> str:
    """The script of a machine that trains."""
    return f"#!/bin/sh\n# {recipe} {list(arguments)} {repository} {revision} {dict(env)} {keep} {env_parameter}\n"
