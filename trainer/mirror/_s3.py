"""A store on S3, on botocore: each request once or twice and with a limit in time, for whoever calls tries again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO

from trainer.errors import MirrorError, first_line
from trainer.mirror._store import BLOCK, Changed, Found, as_base64

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
    "s3:ListBucket"
)
_NO_CREDENTIALS = (
    "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the "
    "machine a role that may write to the bucket"
)
_NO_ANSWER = "no answer: look at the network, AWS_ENDPOINT_URL and AWS_DEFAULT_REGION"
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
    "ExpiredToken": "the AWS credentials have run out: log in anew",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "PermanentRedirect": "the bucket is in another region: set AWS_DEFAULT_REGION",
    "NotImplemented": "this S3 lacks conditional writes, which keep two machines apart: use another",
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "TokenRetrievalError": "the login has ended: log in anew, with aws sso login",
    "ProfileNotFound": "there is no such profile: look at AWS_PROFILE and ~/.aws/config",
    "EndpointConnectionError": _NO_ANSWER,
    "ConnectTimeoutError": _NO_ANSWER,
    "ReadTimeoutError": _NO_ANSWER,
    "ConnectionClosedError": "the connection was cut: look at the network",
    "ProxyConnectionError": _NO_ANSWER,
    "SSLError": "the certificate of the server is not known here: look at AWS_CA_BUNDLE",
}


class Bucket:
    """Objects below a prefix of a bucket; credentials, region and endpoint are found as by the aws command."""

    def __init__(self, bucket: str, prefix: str) -> None:
        import botocore.config
        import botocore.session

        self._bucket, self._prefix = bucket, prefix
        config = botocore.config.Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        with self._sentences():
            self._client = botocore.session.get_session().create_client("s3", config=config)

    def read(self, name: str) -> Found | None:
        """See `Store`."""
        try:
            with self._sentences():
                answer = self._call(self._client.get_object, name)
                data, headers = answer["Body"].read(), answer["ResponseMetadata"]["HTTPHeaders"]
        except KeyError:
            return None
        now = parsedate_to_datetime(headers["date"])
        return Found(data, answer["ETag"], (now - answer["LastModified"]).total_seconds())

    def write(self, name: str, data: bytes, *, version: str | None) -> str:
        """See `Store`."""
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        try:
            with self._sentences():
                return str(self._call(self._client.put_object, name, Body=data, **condition)["ETag"])
        except (Changed, KeyError):
            # It may have been this very request, whose answer got lost, so that it was sent twice.
            there = self.read(name)
            if there and there.data == data:
                return there.version
            raise Changed from None

    def put(self, name: str, file: BinaryIO, size: int, sha256: str) -> None:
        """See `Store`; S3 compares the SHA-256."""
        with self._sentences():
            self._call(
                self._client.put_object, name, Body=file, ContentLength=size, ChecksumSHA256=as_base64(sha256)
            )

    def get(self, name: str, file: BinaryIO) -> None:
        """See `Store`."""
        try:
            with self._sentences():
                for part in self._call(self._client.get_object, name)["Body"].iter_chunks(BLOCK):
                    file.write(part)
        except KeyError:
            raise MirrorError(f"s3://{self._bucket}/{self._prefix}{name} is not there any more") from None

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
        with self._sentences():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [
                one["Key"].removeprefix(self._prefix) for page in pages for one in page.get("Contents", [])
            ]

    def _call(self, method: Callable[..., Any], name: str, **arguments: Any) -> Any:
        return method(Bucket=self._bucket, Key=self._prefix + name, **arguments)

    def _error(self, code: str, said: str) -> MirrorError:
        return MirrorError(f"s3://{self._bucket}/{self._prefix.rstrip('/')}: {_CURES.get(code, said)}")

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """Make ours of what botocore raises: Changed, KeyError for what is not there, else MirrorError.

        What a server says is not handed on but for its code: it may quote what was signed.
        """
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code in _CHANGED:
                raise Changed from None
            if code in _ABSENT:
                raise KeyError(code) from None
            raise self._error(code, f"S3 answers {status} ({code})") from None
        except (BotoCoreError, HTTPClientError) as error:
            raise self._error(type(error).__name__, first_line(error)) from None
        except (OSError, ValueError) as error:  # of a body that is cut in the middle, or no address
            raise self._error(type(error).__name__, first_line(error)) from None
