"""A store on S3, on botocore: each request once or twice and with a limit in time, for whoever calls tries again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO

from trainer.errors import MirrorError, first_line
from trainer.mirror._store import BLOCK, LEFT_SECONDS, TRIALS, Changed, Found, Gone, NoAnswer, as_base64

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 20  # seconds in which something must happen on a connection
ATTEMPTS = 2  # at each request
MOST = 1000  # objects that S3 deletes at once
_CHANGED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_ABSENT = {"NoSuchKey", "404"}

_LOGIN = (
    "these AWS credentials are not valid there: look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
    "and at AWS_ENDPOINT_URL"
)
_DENIED = (
    "it may not be used with these credentials: the policy must allow s3:GetObject, s3:PutObject, s3:DeleteObject and "
    "s3:ListBucket, and where the bucket has a KMS key, kms:GenerateDataKey and kms:Decrypt"
)
_NO_CREDENTIALS = (
    "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the "
    "machine a role that may write to the bucket"
)
_RUN_OUT = "the AWS credentials have run out: log in anew"
_SSO = "the login has ended: log in anew, with aws sso login"
_CREDENTIALS = (_LOGIN, _NO_CREDENTIALS, _RUN_OUT, _SSO)  # looked for anew at the next try
_NO_ANSWER = "no answer: look at the network, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
_CUT = "the connection was cut: look at the network"
_CURES = {  # by S3's error code, or the name of botocore's exception
    "NoSuchBucket": "there is no such bucket: look at RUNS_REMOTE, or make it with aws s3 mb",
    "InvalidBucketName": "that is no name of a bucket: look at RUNS_REMOTE",
    "ParamValidationError": "that is no name of a bucket: look at RUNS_REMOTE",
    "AccessDenied": _DENIED,
    "403": _DENIED,
    "AllAccessDisabled": _DENIED,
    "InvalidAccessKeyId": _LOGIN,
    "SignatureDoesNotMatch": _LOGIN,
    "InvalidToken": _LOGIN,
    "ExpiredToken": _RUN_OUT,
    "ExpiredTokenException": _RUN_OUT,
    "RequestExpired": _RUN_OUT,
    "404": "there is no S3: look at RUNS_REMOTE and AWS_ENDPOINT_URL",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "PermanentRedirect": "the bucket is in another region: set AWS_DEFAULT_REGION",
    "NotImplemented": "this S3 lacks conditional writes, which keep two machines apart: use another",
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "TokenRetrievalError": _SSO,
    "UnauthorizedSSOTokenError": _SSO,
    "SSOTokenLoadError": _SSO,
    "ProfileNotFound": "there is no such profile: look at AWS_PROFILE and ~/.aws/config",
    "EndpointConnectionError": _NO_ANSWER,
    "ConnectTimeoutError": _NO_ANSWER,
    "ReadTimeoutError": _NO_ANSWER,
    "ConnectionClosedError": _CUT,
    "ProxyConnectionError": _NO_ANSWER,
    "SSLError": "the certificate of the server is not known here: look at AWS_CA_BUNDLE",
}


class _Absent(Exception):
    """There is no such object."""


class Bucket:
    """Objects below a prefix of a bucket; credentials, region and endpoint are found as by the aws command."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._opened: Any = None
        with self._sentences():
            assert self._client

    @property
    def _client(self) -> Any:
        if (client := self._opened) is None:
            import botocore.config
            import botocore.session

            config = botocore.config.Config(
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=READ_TIMEOUT,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            )
            self._opened = client = botocore.session.get_session().create_client("s3", config=config)
        return client

    def read(self, name: str) -> Found | None:
        """See `Store`."""
        try:
            with self._sentences(asked=True):
                answer = self._call("get_object", name)
                now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
                age = (now - answer["LastModified"]).total_seconds()
                return Found(answer["Body"].read(), answer["ETag"], age)
        except _Absent:
            return None

    def write(self, name: str, data: bytes, *, version: str | None) -> str:
        """See `Store`."""
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            with self._sentences(asked=True):
                return str(self._call("put_object", name, Body=data, **condition)["ETag"])
        except (Changed, _Absent):
            # It may have been this very request, whose answer got lost, so that it was sent twice.
            there = self.read(name)
            if there and there.data == data:
                return there.version
            raise Changed from None

    def put(self, name: str, file: BinaryIO, size: int, sha256: str) -> None:
        """See `Store`; S3 compares the SHA-256."""
        with self._sentences():
            self._call("put_object", name, Body=file, ContentLength=size, ChecksumSHA256=as_base64(sha256))

    def get(self, name: str, file: BinaryIO) -> None:
        """See `Store`."""
        try:
            with self._sentences(asked=True):
                for part in self._call("get_object", name)["Body"].iter_chunks(BLOCK):
                    file.write(part)
        except _Absent:
            raise Gone(f"s3://{self._bucket}/{self._prefix}{name} is not there any more") from None

    def delete(self, names: list[str]) -> None:
        """See `Store`."""
        for start in range(0, len(names), MOST):
            some = [{"Key": self._prefix + name} for name in names[start : start + MOST]]
            with self._sentences():
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": some, "Quiet": True}
                )
            for error in answer.get("Errors", []):
                raise self._error(str(error.get("Code")), str(error.get("Code")))

    def names(self, prefix: str) -> list[str]:
        """See `Store`."""
        return [name for name, _ in self._list(prefix)]

    def sweep(self) -> None:
        """See `Store`."""
        before = datetime.now(UTC) - timedelta(seconds=LEFT_SECONDS)
        left = [name for trial in TRIALS for name, written in self._list(trial) if written < before]
        self.delete(left)

    def _list(self, prefix: str) -> list[tuple[str, datetime]]:
        """Names and times of all objects that begin so."""
        with self._sentences():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            found = [one for page in pages for one in page.get("Contents", [])]
            return [(one["Key"].removeprefix(self._prefix), one["LastModified"]) for one in found]

    def _call(self, method: str, name: str, **arguments: Any) -> Any:
        return getattr(self._client, method)(Bucket=self._bucket, Key=self._prefix + name, **arguments)

    def _error(self, code: str, said: str) -> MirrorError:
        cure = _CURES.get(code, said)
        if cure in _CREDENTIALS:
            self._opened = None
        kind = NoAnswer if cure in (said, _NO_ANSWER, _CUT) else MirrorError
        return kind(f"s3://{self._bucket}/{self._prefix.rstrip('/')}: {cure}")

    @contextmanager
    def _sentences(self, *, asked: bool = False) -> Iterator[None]:
        """Make MirrorError of what botocore raises; where `asked`, Changed or _Absent of what is so.

        What a server says is not handed on but for its code: it may quote what was signed.
        """
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if asked and code in _CHANGED:
                raise Changed from None
            if asked and code in _ABSENT:
                raise _Absent from None
            raise self._error(code, f"S3 answers {status} ({code})") from None
        except (BotoCoreError, HTTPClientError) as error:
            raise self._error(type(error).__name__, first_line(error)) from None
        except (OSError, ValueError) as error:  # of a body that is cut in the middle, or no address
            raise self._error(type(error).__name__, first_line(error)) from None
        except (LookupError, TypeError):  # of what every S3 answers
            raise self._error("404", "") from None
