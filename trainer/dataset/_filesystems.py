"""Files on S3 and behind the other addresses that fsspec knows; what their libraries say, in sentences."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from trainer.dataset._addresses import Gone, shown_url
from trainer.errors import first_line

PARALLEL = 16  # ranges in flight: one of S3's connections gives some 80 MB/s

_NO_CREDENTIALS = (
    "no AWS credentials were found, and without any it may not be read: set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role that may read the bucket"
)
_DENIED = (
    "it may not be read with these credentials: the policy must allow s3:GetObject (and s3:ListBucket, without which "
    "what is missing looks forbidden); for a bucket whose reader pays set FSSPEC_S3_REQUESTER_PAYS=true"
)
_NO_ENDPOINT = "no connection: look at the network, AWS_ENDPOINT_URL and AWS_REGION"
_CURES = {  # by the name of the error's class: not to import the libraries for it
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "TokenRetrievalError": "the login has ended: log in anew, with aws sso login",
    "ProfileNotFound": "there is no such profile: look at AWS_PROFILE and ~/.aws/config",
    "EndpointConnectionError": _NO_ENDPOINT,
    "ConnectTimeoutError": _NO_ENDPOINT,
    "ProxyConnectionError": _NO_ENDPOINT,
    "SSLError": "the certificate of the server is not known here: look at AWS_CA_BUNDLE",
}
_LACKS = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "sftp": "paramiko"}


def open_filesystem(url: str, *, in_flight: int = PARALLEL) -> tuple[Any, str]:
    """The file system of an address, and the path in it; on S3 without a login where there is none.

    Args:
        url: the address, or a path.
        in_flight: requests at the same time.

    Raises: Gone if no library for it is here, or the login is wrong.
    """
    import fsspec

    protocol = urlsplit(url).scheme
    on_s3 = protocol in ("s3", "s3a")
    options: dict[str, Any] = {"config_kwargs": {"max_pool_connections": in_flight}} if on_s3 else {}
    try:
        files, path = fsspec.url_to_fs(url, **options)
        if on_s3 and not _has_credentials(files):
            files, path = fsspec.url_to_fs(url, anon=True, **options)
    except ImportError:
        package = _LACKS.get(protocol, protocol)
        raise Gone(f"{shown_url(url)} needs the package {package}: pip install {package}") from None
    except ValueError:
        raise Gone(
            f"{shown_url(url)} is neither a path nor an address that can be read; known are s3://, https:// and file://"
        ) from None
    except Exception as error:
        raise Gone(why(url, error)) from None
    return files, path


def _has_credentials(files: Any) -> bool:
    if files.key or files.anon:
        return True
    import botocore.session

    return botocore.session.Session(profile=files.kwargs.get("profile")).get_credentials() is not None


def why(url: str, error: Exception, *, anonymous: bool = False) -> str:
    """A sentence about what a library raised for an address."""
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        place = "bucket" if "bucket does not exist" in str(error) else "file"
        cure = f"there is no such {place}: look at the address again, with aws s3 ls"
    elif isinstance(error, PermissionError):
        cure = _NO_CREDENTIALS if anonymous else _DENIED
    else:
        cure = _CURES.get(name, first_line(error).replace(url, shown_url(url)))
    return f"{shown_url(url)}: {cure}"


class FileSystem:
    """Where one file is; see `Server`."""

    ranges, parallel = True, PARALLEL

    def __init__(self, url: str) -> None:
        """Look whether it is there; the library tries several times.

        Raises: Gone if it is not, or may not be read.
        """
        self._url, self._handles = url, threading.local()
        self._files, self._path = open_filesystem(url)
        try:
            facts = self._files.info(self._path)
        except Exception as error:
            raise Gone(why(url, error, anonymous=bool(getattr(self._files, "anon", False)))) from None
        if facts["type"] == "directory":
            raise Gone(
                f"{shown_url(url)} is a folder, not an archive; a data set that `trainer prepare` has written is "
                f"brought here with: trainer fetch {shown_url(url)} --out DIR"
            )
        self.size = int(facts["size"])
        self.version = str(facts.get("ETag") or facts.get("LastModified") or facts.get("mtime") or "") or None

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`."""
        try:
            # One for each thread, for it has a position. On S3 it asks for the version that it was opened with.
            file = getattr(self._handles, "file", None)
            if file is None:
                file = self._handles.file = self._files.open(self._path, "rb", cache_type="none")
            file.seek(start)
            yield file.read(end - start)
        except (FileNotFoundError, PermissionError) as error:
            raise Gone(why(self._url, error)) from None
        except OSError as error:
            if type(error).__name__ == "FileExpired":
                raise Gone(
                    f"{shown_url(self._url)} changed while it was read; start the same command again"
                ) from None
            raise
