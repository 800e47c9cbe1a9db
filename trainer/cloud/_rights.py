"""What a machine may do in AWS: nothing, but for what it was asked to do. And its secrets, which are kept by SSM."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from trainer.cloud._aws import PROJECT, Aws, code_of, tags
from trainer.cloud._launch import Statement
from trainer.cloud._user_data import quote
from trainer.errors import CloudError


def parameter_name(run: str) -> str:
    """The SSM parameter with the secrets of `run`."""
    return f"/{PROJECT}/{run}/env"


def check_secrets(secrets: Mapping[str, str]) -> None:
    """Raises: CloudError for a value that is no line of a file with settings, without saying it."""
    for name, value in secrets.items():
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            raise CloudError(
                f"the value of --secret {name} has a line break or control character; was it cut right?"
            )
        if "\\" in value:
            raise CloudError(
                f"the value of --secret {name} has a backslash, which is read in different ways from .env"
            )


def keep_secrets(aws: Aws, run: str, kind: str, secrets: Mapping[str, str]) -> None:
    """Store lines NAME=VALUE, encrypted by the account's own key of SSM; for "train", as Compose reads them."""
    if not secrets:
        return
    ssm, name = aws.client("ssm"), parameter_name(run)
    quoted = quote if kind == "train" else str
    text = "\n".join(f"{key}={quoted(value)}" for key, value in secrets.items())
    try:
        ssm.put_parameter(Name=name, Value=text, Type="SecureString", Tags=tags(run, kind))
    except Exception as error:
        if code_of(error) != "ParameterAlreadyExists":
            raise
        ssm.put_parameter(
            Name=name, Value=text, Type="SecureString", Overwrite=True
        )  # AWS takes no tags with it


def may_read_secrets(aws: Aws, run: str) -> Statement:
    """The right to read the secrets of `run`."""
    name = parameter_name(run)
    return {
        "Effect": "Allow",
        "Action": "ssm:GetParameter",
        "Resource": f"arn:aws:ssm:{aws.region}:*:parameter{name}",
    }


def may_use_s3(url: str, *, write: bool) -> list[Statement]:
    """The right to read what is below s3://BUCKET/PREFIX, and to write and delete there. Raises: CloudError."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise CloudError(f"{url} is no address as s3://BUCKET/PREFIX")
    key = parts.path.strip("/")
    below = f"arn:aws:s3:::{parts.netloc}/{key}/*" if write else f"arn:aws:s3:::{parts.netloc}/{key}*"
    objects = [
        "s3:GetObject",
        *(["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"] if write else []),
    ]
    return [
        {"Effect": "Allow", "Action": objects, "Resource": below.replace("//*", "/*")},
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
            "Resource": f"arn:aws:s3:::{parts.netloc}",
        },
    ]


def require_bucket(aws: Aws, url: str) -> None:
    """Raises: CloudError if there is no such bucket; one that may not be looked at is left to the machine."""
    bucket = urlsplit(url).netloc
    try:
        aws.client("s3").head_bucket(Bucket=bucket)
    except Exception as error:
        if code_of(error) in ("404", "NoSuchBucket"):
            raise CloudError(f"there is no bucket {bucket}; make it: aws s3 mb s3://{bucket}") from error
        if code_of(error) != "403":
            raise


# docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-add-permissions-to-existing-profile.html
SESSION_MANAGER: Statement = {
    "Effect": "Allow",
    "Action": [
        "ssm:UpdateInstanceInformation",
        "ssmmessages:CreateControlChannel",
        "ssmmessages:CreateDataChannel",
        "ssmmessages:OpenControlChannel",
        "ssmmessages:OpenDataChannel",
    ],
    "Resource": "*",
}
