"""AWS on this machine: moto's server, and before it what moto lacks, in the shapes that AWS documents.

moto does not know service quotas, the images' parameters, spot prices by zone, what a console says, and that a client
token asked twice is one machine. All else is passed on to it, by the real boto3 over HTTP.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from trainer.cloud._account import CPU_IMAGE, GPU_IMAGE

Respond = Callable[[str, list[tuple[str, str]]], Any]
GPU_AMI, CPU_AMI = "ami-0123456789abcdef0", "ami-0fedcba9876543210"
ROOT_GB = {GPU_AMI: 75, CPU_AMI: 8}
ASKING = ("Describe", "Get", "List", "HEAD ", "GET ")


class StandIn:
    """A WSGI application before moto's."""

    def __init__(self, moto: Any) -> None:
        self._moto = moto
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """As a new account: no quota for GPUs at all was asked for yet."""
        self.calls: list[str] = []
        self.asked: list[dict[str, str]] = []  # the forms of EC2's calls, in the same order
        self.hook: Callable[[str, dict[str, str]], tuple[str, str] | None] = lambda operation, form: None
        self.quotas = {
            "L-3819A6DF": 8.0,
            "L-DB2E81BA": 8.0,
            "L-7212CCBC": 0.0,
            "L-C4BD4855": 0.0,
            "L-417A185B": 0.0,
            "L-1216C47A": 16.0,
        }
        self.spot_prices = {"us-east-1a": 0.52, "us-east-1b": 0.41, "us-east-1c": 0.60}
        self.parameters = {GPU_IMAGE: GPU_AMI, CPU_IMAGE: CPU_AMI}
        self.console = ""
        self.address = "198.51.100.4"  # of who calls
        self.refuses: dict[str, tuple[str, str]] = {}  # operation: code and message
        self.cut_off = 0  # so often, the connection ends without an answer
        self.blind = 0  # so often, it lists no machine: what AWS has made, it lists a moment later
        # None, or the changes after which a process is not killed; after another, it is, and does not hear of it.
        self.kills: list[str] | None = None
        self._killed = False
        self.tokens: dict[str, bytes] = {}
        self.told: dict[str, str] = {}  # user data that was changed, by instance

    def last(self, operation: str) -> dict[str, str]:
        """What the last call of an operation of EC2 asked for."""
        return next(
            form for call, form in zip(self.calls[::-1], self.asked[::-1], strict=True) if call == operation
        )

    def begin(self, kills: list[str] | None) -> None:
        """Begin with another process."""
        self.kills, self._killed = kills, False

    @property
    def changes(self) -> list[str]:
        """The calls that change something."""
        return [call for call in self.calls if not call.startswith(ASKING)]

    def __call__(self, environ: dict[str, Any], start_response: Respond) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        form = {} if target else {key: values[0] for key, values in parse_qs(body.decode()).items()}
        operation = (
            target.partition(".")[2]
            or form.get("Action")
            or f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        )
        with self.lock:
            self.calls.append(operation)
            self.asked.append(form)
        if self.cut_off:
            self.cut_off -= 1
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        if self._killed:
            return _refuse(start_response, target, "AuthFailure", "the process was killed before this")
        if refused := self.refuses.get(operation) or self.hook(operation, form):
            return _refuse(start_response, target, *refused)
        if self.kills is not None and not operation.startswith(ASKING) and operation not in self.kills:
            self._killed = True
            self.kills.append(operation)
            b"".join(self._pass_on(form, environ, lambda *_: None))
            return _refuse(start_response, target, "AuthFailure", "the process was killed after this")
        if operation == "GET /address":
            return _text(start_response, f"{self.address}\n")
        if target.startswith("ServiceQuotas") or operation == "GetParameter":
            return self._json(operation, json.loads(body), environ, start_response)
        if operation == "DescribeImages":
            return _xml(start_response, operation, self._image(form["ImageId.1"]))
        if operation == "DescribeSpotPriceHistory":
            return _xml(start_response, operation, self._prices(form["InstanceType.1"], form))
        if operation == "DescribeInstances" and self.blind:
            self.blind -= 1
            return _xml(start_response, operation, "<reservationSet/>")
        if operation == "GetConsoleOutput":
            text = base64.b64encode(self.console.encode()).decode()
            return _xml(start_response, operation, f"<instanceId>i-1</instanceId><output>{text}</output>")
        return self._pass_on(form, environ, start_response)

    def _pass_on(self, form: dict[str, str], environ: dict[str, Any], start_response: Respond) -> Any:
        if "UserData.Value" in form:  # moto takes its Base64 off twice
            self.told[form["InstanceId"]] = form["UserData.Value"]
            return _xml(start_response, "ModifyInstanceAttribute", "<return>true</return>")
        if form.get("Attribute") == "userData" and form["InstanceId"] in self.told:
            value = f"<userData><value>{self.told[form['InstanceId']]}</value></userData>"
            return _xml(start_response, "DescribeInstanceAttribute", value)
        if form.get("Action") == "RunInstances":
            return self._once(form["ClientToken"], environ, start_response)
        return self._moto(environ, start_response)

    def _json(
        self, operation: str, asked: dict[str, Any], environ: dict[str, Any], start_response: Respond
    ) -> Any:
        if operation in ("GetServiceQuota", "GetAWSDefaultServiceQuota"):
            code = asked["QuotaCode"]
            return _json(
                start_response,
                {"Quota": {"ServiceCode": "ec2", "QuotaCode": code, "Value": self.quotas[code]}},
            )
        if asked["Name"] in self.parameters:
            value = {
                "Name": asked["Name"],
                "Type": "String",
                "Value": self.parameters[asked["Name"]],
                "Version": 100,
            }
            return _json(start_response, {"Parameter": value})
        return self._moto(environ, start_response)

    def _image(self, image: str) -> str:
        disk = f"<volumeSize>{ROOT_GB[image]}</volumeSize><volumeType>gp3</volumeType>"
        root = f"<item><deviceName>/dev/sda1</deviceName><ebs>{disk}</ebs></item>"
        ids = f"<imageId>{image}</imageId><rootDeviceName>/dev/sda1</rootDeviceName>"
        # The instance store's disks have no size.
        mapping = f"{root}<item><deviceName>/dev/sdb</deviceName><virtualName>ephemeral0</virtualName></item>"
        return f"<imagesSet><item>{ids}<blockDeviceMapping>{mapping}</blockDeviceMapping></item></imagesSet>"

    def _prices(self, instance: str, form: dict[str, str]) -> str:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        wanted = next(
            (form[f"{key[:-4]}Value.1"] for key, value in form.items() if value == "availability-zone"), None
        )
        items = [
            f"<item><availabilityZone>{zone}</availabilityZone><instanceType>{instance}</instanceType>"
            f"<productDescription>Linux/UNIX</productDescription><spotPrice>{price}</spotPrice><timestamp>{now}</timestamp></item>"
            for zone, price in self.spot_prices.items()
            if wanted in (None, zone)
        ]
        return f"<spotPriceHistorySet>{''.join(items)}</spotPriceHistorySet><nextToken/>"

    def _once(self, token: str, environ: dict[str, Any], start_response: Respond) -> Any:
        with self.lock:  # a second call may come before the first one's machine is made
            if token not in self.tokens:
                status: list[str] = []
                answer = b"".join(self._moto(environ, lambda code, headers: status.append(code)))
                if not status[0].startswith("200"):
                    start_response(status[0], [("Content-Type", "text/xml")])
                    return [answer]
                self.tokens[token] = answer
        start_response("200 OK", [("Content-Type", "text/xml")])
        return [self.tokens[token]]


def _json(start_response: Respond, content: Any, status: str = "200 OK") -> list[bytes]:
    start_response(status, [("Content-Type", "application/x-amz-json-1.1")])
    return [json.dumps(content).encode()]


def _text(start_response: Respond, content: str) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [content.encode()]


def _xml(start_response: Respond, operation: str, content: str) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/xml")])
    xmlns = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return [
        f'<{operation}Response xmlns="{xmlns}"><requestId>1</requestId>{content}</{operation}Response>'.encode()
    ]


def _refuse(start_response: Respond, target: str, code: str, message: str) -> list[bytes]:
    if target:
        return _json(start_response, {"__type": code, "message": message}, "400 Bad Request")
    start_response("400 Bad Request", [("Content-Type", "text/xml")])
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return [f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>".encode()]
