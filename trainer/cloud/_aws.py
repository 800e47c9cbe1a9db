"""The one door to AWS: clients of a region, the names and tags of all that is made there, errors in a sentence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any

from trainer.errors import CloudError

PROJECT = "trainer"  # tag Project of all that is made, and the first part of its names
KINDS = ("data", "train")  # tag Kind
POLL = 5.0  # seconds between two looks at what AWS is still busy with

# What to do, by the codes of docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
_CREDENTIALS = (
    "AWS does not know these credentials in this region; log in again (aws configure, aws sso login), set AWS_PROFILE, "
    "or switch the region on, if it is off in AWS's console under Account"
)
_EXPIRED = "the credentials have expired, or this computer's clock is off; log in again, or set the clock"
_QUOTA = (
    "the vCPU quota for {what} is used up or too small; `./scripts/cloud check` shows it; ask for more in AWS's "
    "console under Service Quotas, EC2, or take a smaller --instance"
)
_CAPACITY = (
    "AWS has no free machine of this type now; try again later, or another --instance, --zone or --region"
)
SENTENCES = {
    "AuthFailure": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "VcpuLimitExceeded": _QUOTA.format(what="machines on demand"),
    "MaxSpotInstanceCountExceeded": _QUOTA.format(what="spot instances"),
    "InsufficientInstanceCapacity": _CAPACITY,
    "SpotMaxPriceTooLow": "the spot price is above --max-price now; raise it, or try another --zone or --region",
    "OptInRequired": "this account is not subscribed to that service in this region yet; finish the sign-up at AWS",
    "PendingVerification": "AWS is still verifying this account for the region; try again in an hour",
}
DENIED = ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException")


class Aws:
    """Clients of one region."""

    def __init__(self, region: str | None = None) -> None:
        """Raises: CloudError where there is no region."""
        session = _session()
        self.region: str = region or session.region_name
        if not self.region:
            raise CloudError("no region is set; give --region us-east-1, or set AWS_DEFAULT_REGION")
        if self.region not in (known := session.get_available_regions("ec2")):
            raise CloudError(f"--region {self.region} is none of AWS's regions: {', '.join(sorted(known))}")

    def client(self, service: str) -> Any:
        """Client of a service of AWS."""
        return _client(service, self.region)

    @property
    def ec2(self) -> Any:
        """Client of EC2."""
        return self.client("ec2")

    def pages(self, operation: str, key: str, *, service: str = "ec2", **arguments: Any) -> list[Any]:
        """All of what an operation lists under `key`."""
        pages = self.client(service).get_paginator(operation).paginate(**arguments)
        return [item for page in pages for item in page[key]]

    def instances(self, **arguments: Any) -> list[Any]:
        """What DescribeInstances lists, out of the reservations that they came in."""
        groups = self.pages("describe_instances", "Reservations", **arguments)
        return [one for group in groups for one in group["Instances"]]

    def who(self) -> str:
        """The identity that the credentials belong to."""
        return str(self.client("sts").get_caller_identity()["Arn"])


@cache
def _session() -> Any:
    """One session for all: it reads AWS's descriptions of its services, which takes longest."""
    try:
        from boto3.session import Session
    except ImportError:
        raise CloudError("boto3 is not installed here; call ./scripts/cloud, which brings it") from None
    return Session()


@cache
def _client(service: str, region: str) -> Any:
    from botocore.config import Config

    settings = Config(retries={"mode": "standard"}, connect_timeout=10)
    return _session().client(service, region_name=region, config=settings)


@contextmanager
def aws_errors() -> Iterator[None]:
    """Turn what AWS refuses into one sentence. Raises: CloudError."""
    try:
        from botocore import exceptions
        from botocore.parsers import ResponseParserError
    except ImportError:
        raise CloudError("boto3 is not installed here; call ./scripts/cloud, which brings it") from None
    try:
        yield
    except exceptions.ClientError as error:
        raise CloudError(sentence(error)) from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise CloudError(
            "there are no AWS credentials here; make an access key for a user of yours in AWS's console under IAM, "
            "then run aws configure, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        raise CloudError(
            f"AWS cannot be reached; is there a network, and is it the right region? {error}"
        ) from error
    except ResponseParserError as error:
        raise CloudError("the answer is none of AWS's; is a proxy or a login page between?") from error
    except exceptions.BotoCoreError as error:
        raise CloudError(f"AWS's library refuses: {error}") from error


def code_of(error: Exception) -> str:
    """AWS's code of an error, such as UnauthorizedOperation."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _answer(error: Exception) -> dict[str, Any]:
    return getattr(error, "response", None) or {}  # of a connection that was lost it is None


def sentence(error: Any) -> str:
    """What an error of AWS means and what to do."""
    code, operation = code_of(error), error.operation_name
    if code in DENIED:
        # A machine that gets a role asks for a right that no operation is called by.
        role = ", and for iam:PassRole," if operation in ("RunInstances", "AddRoleToInstanceProfile") else ""
        return (
            f"AWS does not allow {operation} to these credentials; ask the account's owner for that right{role} "
            "(docs/aws.md lists all), or use others (AWS_PROFILE)"
        )
    if code in SENTENCES:
        return f"{SENTENCES[code]} ({code})"
    message = str(error.response.get("Error", {}).get("Message") or "no reason given").partition("\n")[0][
        :200
    ]
    return f"AWS refuses {operation}: {message} ({code})"


def run_name(name: str) -> str:
    """`name`, if things in AWS can be called so. Raises: CloudError."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
        raise CloudError(
            f"--name {name} must have 1 to 32 lower-case letters, digits and hyphens, as names in AWS do"
        )
    return name


def tags(run: str, kind: str, **more: str) -> list[dict[str, str]]:
    """The tags of everything that is made for `run`."""
    named = {"Project": PROJECT, "Run": run, "Kind": kind, "Name": f"{PROJECT}-{run}", **more}
    return [{"Key": key, "Value": value} for key, value in named.items()]


def tag(thing: dict[str, Any], key: str) -> str:
    """The value of a tag; empty if there is none."""
    return next((str(one["Value"]) for one in thing.get("Tags", []) if one["Key"] == key), "")


def by_tag(run: str | None, kind: str | None = None) -> list[dict[str, Any]]:
    """The filter for all that was made for `run`, or for any; of one kind, or of both."""
    # All three: other people's things may be of a project of that name.
    wanted = {
        "Project": [PROJECT],
        "Kind": [kind] if kind else list(KINDS),
        "Run": ["*" if run is None else run],
    }
    return [{"Name": f"tag:{key}", "Values": values} for key, values in wanted.items()]


def passes(error: Exception) -> bool:
    """Whether AWS was not reached, or could not answer, which may pass by itself."""
    from botocore.exceptions import ConnectionError as NotReached
    from botocore.exceptions import HTTPClientError

    status = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return isinstance(error, (NotReached, HTTPClientError)) or status >= 500


def wait_until(ready: Callable[[], bool], what: str, *, seconds: float = 600, polls: int = 1) -> None:
    """Look every `polls` times POLL whether `ready`. Raises: CloudError after `seconds`."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise CloudError(
                f"{what} takes longer than {seconds / 60:.0f} minutes; the same command looks again"
            )
        time.sleep(polls * POLL)


def hours_between(since: datetime, until: datetime) -> float:
    """Hours from one time to another."""
    return max(0.0, (until - since).total_seconds() / 3600)
