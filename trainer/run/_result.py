"""What came out of a finished run, as a file in its folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from trainer.errors import TrackingError
from trainer.files import read_json, write_json

RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run."""

    run: str  # its folder
    run_id: str  # MLflow's
    tracking_uri: str
    model: str  # the registered version, as `trainer export` takes it
    version: int
    top1: float  # share of the validation images in 0..1, measured in fp32
    top5: float
    num_images: int  # of the validation set
    images_per_second: float  # of training, median over the run, all processes together
    device: str  # name of the GPU, or cpu
    hours: float  # of all starts together
    usd: float | None = None  # what they cost, where the price is known
    report: str | None = None  # its page, if it was written
    bundle: str | None = None  # its folder, if it was written
    url: str | None = None  # of the run in MLflow's UI, where a server has it
    again: bool = False  # the run was finished before this start

    def as_dict(self) -> dict[str, object]:
        """As plain data, as it is stored."""
        return asdict(self)


def write_result(folder: Path, result: RunResult) -> None:
    """Mark the run in `folder` as finished."""
    write_json(folder / RESULT, result.as_dict())


def read_result(folder: Path) -> RunResult | None:
    """What came out of the run in `folder`; None if it is not finished."""
    try:
        stored = read_json(folder / RESULT)
    except (OSError, ValueError):
        return None  # as of a run that is not finished: its end is repeated
    known = {field.name for field in fields(RunResult)}
    try:
        result = RunResult(**{key: value for key, value in stored.items() if key in known})
    except TypeError:
        raise TrackingError(
            f"{folder / RESULT} is not of this version of trainer; read it as it is, or begin a new run with --name"
        ) from None
    # Its folder may have been moved, or fetched from a mirror.
    report, bundle = (
        path and path.replace(result.run, str(folder), 1) for path in (result.report, result.bundle)
    )
    return replace(result, run=str(folder), report=report, bundle=bundle, again=True)
