"""A model in any of its forms on the Hugging Face Hub, with a Space if one is asked for."""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import ConfigError, ExportError, PublishError
from trainer.export import whole_or_nothing
from trainer.publish import (
    MODEL_FILES,
    SPACE_FILES,
    Hub,
    Publication,
    Uploaded,
    may_show,
    report_pages,
    write_model_folder,
    write_space_folder,
)
from trainer.run._export import bundle_of_run
from trainer.run._options import PublishOptions
from trainer.run._resolve import load_any
from trainer.tracking import Origin, origin_of

logger = logging.getLogger(__name__)
MODEL, SPACE = "model", "space"  # folders below --out


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model that is on the Hub, or in a folder as it would be there."""

    source: str  # the model: models:/NAME/VERSION, or a path
    folder: Path | None  # of a dry run
    model: Uploaded | None
    space: Uploaded | None
    with_timm: bool  # it has weights that timm loads, and not the ONNX bundle alone
    with_photos: bool


def publish_model(options: PublishOptions) -> Published:
    """Write a model as a repository, and a Space if one is named, and upload each by one commit.

    Raises: ConfigError, TrackingError, CheckpointError, ExportError; PublishError if the Hub does not take it.
    """
    hub = None if options.dry_run else Hub()  # before minutes of work
    repo, space = (_full(hub, name) for name in (options.repo, options.space))
    assert repo is not None
    loaded = load_any(options.model, runs=options.runs, trust=options.trust)
    origin = origin_of(loaded, options.runs)
    dataset = origin.history.dataset.name if origin.history.dataset else None
    photos = may_show(loaded.info.class_ids, dataset, asked=options.with_photos)
    if options.with_report:
        _check_report(loaded.source, origin, photos)
    made = bundle_of_run(loaded, options.runs)
    publication = Publication(
        model=loaded,
        origin=origin,
        repo=repo,
        space=space,
        licence=options.license,
        photos=photos,
        report=options.with_report,
        ready=made.folder if made else None,
    )
    with ExitStack() as stack:
        if hub is None:
            folder = stack.enter_context(whole_or_nothing(options.folder))
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trainer-")))
        try:
            (folder / MODEL).mkdir()
            write_model_folder(folder / MODEL, publication)
            if space:
                (folder / SPACE).mkdir()
                write_space_folder(folder / SPACE, publication, folder / MODEL / "bundle")
        except OSError as error:
            raise ExportError(
                f"{folder} cannot be written: {error.strerror or error}; make room, or set TMPDIR to another disk"
            ) from None
        uploaded = _upload(hub, folder, publication, options) if hub else (None, None)
    return Published(
        source=loaded.source,
        folder=options.folder if hub is None else None,
        model=uploaded[0],
        space=uploaded[1],
        with_timm=publication.with_timm,
        with_photos=photos,
    )


def _check_report(source: str, origin: Origin, photos: bool) -> None:
    """Check that there is a report to be published. Raises: ConfigError."""
    if not photos:
        raise ConfigError(
            "the report shows photos of the data set; add --with-photos if they may be shown (ImageNet's may not), or "
            "leave out --with-report"
        )
    if not report_pages(origin):
        where = origin.run or "the folder of its run, which is not in --runs"
        raise ConfigError(
            f"{source} has no report in {where}; make it with `trainer report`, or leave out --with-report"
        )


def _full(hub: Hub | None, name: str | None) -> str | None:
    if name is None or "/" in name:
        return name
    return hub.full_name(name) if hub else f"OWNER/{name}"  # a dry run asks nobody


def _upload(
    hub: Hub, folder: Path, publication: Publication, options: PublishOptions
) -> tuple[Uploaded, Uploaded | None]:
    repo, space = publication.repo, publication.space
    # Both names first: what is not ours is said before anything is uploaded.
    hub.prepare(repo, "model", public=options.public)
    if space:
        hub.prepare(space, "space", public=options.public)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    logger.info("uploading %.0f MB to %s", size / 1e6, f"{repo} and {space}" if space else repo)
    message = f"Publish {publication.model.source if publication.model.registered else repo}"
    model = hub.upload(folder / MODEL, repo, "model", message=message, ours=MODEL_FILES)
    if not space:
        return model, None
    try:
        return model, hub.upload(folder / SPACE, space, "space", message=message, ours=SPACE_FILES)
    except PublishError as error:
        raise PublishError(f"the model is at {model.url}, its Space is not: {error}") from None
