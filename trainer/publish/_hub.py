"""The Hugging Face Hub: one commit to one repository, or a sentence that says why not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.errors import ConfigError, PublishError, first_line

Kind = Literal["model", "space"]

TOKENS = "https://huggingface.co/settings/tokens"


@dataclass(frozen=True)
class Uploaded:
    """A repository of the Hub that holds what was to be uploaded."""

    url: str
    commit: str
    new: bool  # False: it held all of it before
    private: bool


def valid_repo(option: str, name: str) -> str:
    """`name`, if a repository can be called so: OWNER/NAME, or NAME. Raises: ConfigError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ConfigError(
            f"{option} {name[:100]!r} is no name of a repository: write NAME or OWNER/NAME with letters, digits, "
            "- _ and . only, at most 96 characters, neither beginning nor ending with - or ., without -- and .."
        ) from None
    return name


class Hub:
    """Whoever's token is in HF_TOKEN, or was left by `hf auth login`, at huggingface.co or HF_ENDPOINT."""

    def __init__(self) -> None:
        """Ask the Hub whose token this is. Raises: PublishError if it is none, or may not write."""
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        disable_progress_bars()
        if not get_token():
            raise PublishError(
                f"there is no token of the Hugging Face Hub; make one that may write at {TOKENS} and put it into the "
                "environment as HF_TOKEN, or run `hf auth login`"
            )
        self._api = HfApi()
        with _in_words(self._api.endpoint, "the token"):
            me = self._api.whoami()
        self._name = str(me["name"])
        role = me.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise PublishError(
                f"the token of {self._name} may only read; make one that may write at {TOKENS}"
            )

    def full_name(self, name: str) -> str:
        """OWNER/NAME of a repository of the token's owner, or as it was given."""
        return name if "/" in name else f"{self._name}/{name}"

    def prepare(self, repo: str, kind: Kind, *, public: bool) -> None:
        """Make the repository unless it is there.

        Raises: PublishError if it cannot be made or is public against the user's word.
        """
        with _in_words(self._api.endpoint, repo):
            self._api.create_repo(
                repo,
                repo_type=kind,
                private=not public,
                exist_ok=True,
                space_sdk="gradio" if kind == "space" else None,
            )
            private = self._api.repo_info(repo, repo_type=kind).private
        if not private and not public:
            raise PublishError(
                f"{self._url(repo, kind)} is there and public; add --public if everybody may see what is uploaded, or "
                "choose another name"
            )

    def upload(self, folder: Path, repo: str, kind: Kind, *, message: str, ours: tuple[str, ...]) -> Uploaded:
        """Make the repository hold the files of `folder`, by one commit: all of them, or none.

        `upload_folder` would be several commits wherever the Hub's faster way of uploading is installed.

        Args:
            folder: a folder that was written to be published; all of its files are uploaded.
            repo: OWNER/NAME.
            kind: what it is.
            message: of the commit.
            ours: files and folders, with a / behind, that are removed from the repository if `folder` lacks them.

        Raises: PublishError if the Hub does not take them.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        with _in_words(self._api.endpoint, repo):
            before = self._api.repo_info(repo, repo_type=kind)
            there = self._api.list_repo_files(repo, repo_type=kind)
            left = [name for name in there if name not in files and _is_of(name, ours)]
            commit = self._api.create_commit(
                repo,
                [
                    *(CommitOperationAdd(name, folder / name) for name in files),
                    *(CommitOperationDelete(name, is_folder=False) for name in left),
                ],
                commit_message=message,
                repo_type=kind,
            )
        return Uploaded(self._url(repo, kind), commit.oid, commit.oid != before.sha, bool(before.private))

    def _url(self, repo: str, kind: Kind) -> str:
        return f"{self._api.endpoint}/{'spaces/' if kind == 'space' else ''}{repo}"


def _is_of(name: str, ours: tuple[str, ...]) -> bool:
    return any(name == one or (one.endswith("/") and name.startswith(one)) for one in ours)


@contextmanager
def _in_words(endpoint: str, what: str) -> Iterator[None]:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise PublishError(f"{what} is to be uploaded, and HF_HUB_OFFLINE forbids that; unset it") from None
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        # Of an upload it says that it failed, and only its cause says why.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if isinstance(cause, HfHubHTTPError):
            said = " ".join((cause.server_message or "").split())[:200]
            answer = _answer(cause.response.status_code, endpoint, what)
            raise PublishError(answer + (f" ({said})" if said else "")) from None
        if isinstance(cause, (httpx2.HTTPError, OSError)):
            raise PublishError(
                f"{endpoint} does not answer ({first_line(cause)}); nothing of {what} was changed: look at the "
                "network, and start the same command again"
            ) from None
        raise PublishError(
            f"{what} was not uploaded: {first_line(error)}; nothing of it was changed: start the same command again"
        ) from None


def _answer(status: int, endpoint: str, what: str) -> str:
    if status == 401:
        return (
            f"{endpoint} does not take this token for {what}; make one that may write at {TOKENS} and put it into "
            "HF_TOKEN"
        )
    if status in (403, 404):
        return (
            f"{what} at {endpoint} is not there, or this token may not write to it; use one that may, or a name of "
            "your own"
        )
    if status == 402:
        return f"{endpoint} wants a paid account for {what}; look at its page"
    if status == 429:
        return f"{endpoint} has had too many requests; wait some minutes and start the same command again"
    if status >= 500:
        return f"{endpoint} has trouble of its own (it answers {status}); start the same command again later"
    return f"{endpoint} does not take {what} (it answers {status})"
