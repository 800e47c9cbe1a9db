"""A stand-in of the Hugging Face Hub on the loopback: what creating, uploading and downloading ask of it.

Source: the requests of huggingface_hub 2.4.0, one by one. Without Xet (HF_HUB_DISABLE_XET=1), whose servers are others.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

WRITE, READ, FINE = "hf_write", "hf_read", "hf_fine"  # tokens: of ana, who may write; read; write to nothing
REPO = r"/api/(models|spaces)/([^/]+/[^/]+)"
LFS = (".safetensors", ".onnx", ".npy", ".jpeg", ".jpg")
Json = dict[str, Any]


@dataclass
class Repo:
    """A repository: what it was made with, and its files as of the last commit."""

    made: Json
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.onnx filter=lfs\n"})
    commits: list[Json] = field(default_factory=list)  # sha, message

    @property
    def sha(self) -> str:
        return str(self.commits[-1]["sha"]) if self.commits else "0" * 40

    @property
    def private(self) -> bool:
        return bool(self.made.get("visibility") == "private" or self.made.get("private"))


class Hub:
    """The server, and all that it holds."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}  # by kind (models, spaces) and OWNER/NAME
        self.lfs: dict[str, bytes] = {}  # by SHA-256
        self.asked: list[str] = []  # requests
        self.answers: dict[str, int] = {}  # part of a request, and the status that it gets
        handler = type("Handler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def empty(self) -> None:
        for kept in (self.repos, self.lfs, self.asked, self.answers):
            kept.clear()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def say(self, code: int, what: bytes | Json | list[Any] = b"", **headers: str) -> None:
        data = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(code)
        for key, value in {
            "content-type": "application/json",
            "content-length": str(len(data)),
            **headers,
        }.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def token(self) -> str:
        return (self.headers.get("authorization") or "").removeprefix("Bearer ")

    def refused(self) -> bool:
        """Whether this request was answered already, and not with what it asked for."""
        request = f"{self.command} {self.path.partition('?')[0]}"
        self.hub.asked.append(request)
        for part, status in self.hub.answers.items():
            if part in request:
                self.body()
                self.say(status, {"error": "as the test wants it"})
                return True
        if self.path.startswith("/api/") and self.token not in (WRITE, READ, FINE):
            self.body()
            self.say(401, {"error": "Invalid username or password."})
            return True
        return False

    def may_write(self, name: str) -> bool:
        return self.token == WRITE and name.startswith("ana/")

    def do_POST(self) -> None:
        if self.refused():
            return None
        path, data = self.path.partition("?")[0], self.body()
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if path == "/api/validate-yaml":
            return self.validate(json.loads(data)["content"])
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(data))
        for what, answer in (("preupload", self.preupload), ("commit", self.commit)):
            if named := re.fullmatch(rf"{REPO}/{what}/main", path):
                repo = self.hub.repos.get((named[1], named[2]))
                if repo is None:
                    return self.say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                if not self.may_write(named[2]):
                    return self.say(403, {"error": f"Forbidden: you may not write to {named[2]}"})
                return answer(repo, named[2], data)
        return self.say(404, {"error": "not here"})

    def create(self, asked: Json) -> None:
        name, kind = f"{asked.get('organization') or 'ana'}/{asked['name']}", f"{asked.get('type', 'model')}s"
        if not self.may_write(name):
            return self.say(403, {"error": f"You don't have the rights to create a {kind[:-1]} there"})
        url = f"{self.hub.url}/{'spaces/' if kind == 'spaces' else ''}{name}"
        if (kind, name) in self.hub.repos:
            return self.say(409, {"error": "You already created this repo", "url": url})
        self.hub.repos[kind, name] = Repo(asked)
        return self.say(200, {"url": url, "name": name, "id": name})

    def validate(self, content: str) -> None:
        """As the Hub does: a front matter that is YAML and has what a Space must have."""
        try:
            front = yaml.safe_load(content.split("---\n")[1])
            assert isinstance(front, dict)
            assert "sdk" not in front or {"sdk_version", "app_file"} <= front.keys()
            for entry in front.get("model-index", []):
                assert entry["name"]
                assert entry["results"][0]["metrics"][0]["value"] >= 0
        except (LookupError, AssertionError, yaml.YAMLError) as error:
            return self.say(400, {"errors": [{"message": f"{error!r}"}], "warnings": []})
        return self.say(200, {"errors": [], "warnings": []})

    def preupload(self, repo: Repo, name: str, data: bytes) -> None:
        files = []
        for one in json.loads(data)["files"]:
            path = one["path"]
            is_lfs = path.endswith(LFS)
            there = repo.files.get(path)
            oid = None if there is None else sha256(there) if is_lfs else blob(there)
            files.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if is_lfs else "regular",
                    "shouldIgnore": False,
                    "oid": oid,
                }
            )
        self.say(200, {"files": files})

    def batch(self, asked: Json) -> None:
        objects = []
        for one in asked["objects"]:
            entry = {"oid": one["oid"], "size": one["size"], "authenticated": True}
            if one["oid"] not in self.hub.lfs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}
            objects.append(entry)
        self.say(200, {"transfer": "basic", "objects": objects})

    def commit(self, repo: Repo, name: str, data: bytes) -> None:
        files, message = dict(repo.files), ""
        for line in data.splitlines():
            value, kind = (one := json.loads(line))["value"], one["key"]
            match kind:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.lfs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        sha = hashlib.sha1(repo.sha.encode() + data).hexdigest()
        repo.files = files
        repo.commits.append({"sha": sha, "message": message})
        self.say(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    def do_PUT(self) -> None:
        if self.refused():
            return None
        data, oid = self.body(), self.path.rsplit("/", 1)[1]
        if sha256(data) != oid:
            return self.say(400, {"error": "digest"})
        self.hub.lfs[oid] = data
        return self.say(200, {})

    def do_GET(self) -> None:
        if self.refused():
            return None
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            role = {WRITE: "write", READ: "read", FINE: "fineGrained"}[self.token]
            auth = {"type": "access_token", "accessToken": {"displayName": "t", "role": role}}
            return self.say(200, {"type": "user", "name": "ana", "fullname": "Ana", "orgs": [], "auth": auth})
        if named := re.fullmatch(rf"{REPO}(/tree/[^/]+|/revision/[^/]+)?", path):
            repo = self.hub.repos.get((named[1], named[2]))
            if repo is None:
                return self.say(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            if (named[3] or "").startswith("/tree/"):
                return self.say(
                    200,
                    [
                        {"type": "file", "path": file, "size": len(content), "oid": blob(content)}
                        for file, content in repo.files.items()
                    ],
                )
            about: Json = {"id": named[2], "sha": repo.sha, "private": repo.private, "tags": []}
            return self.say(200, {**about, "siblings": [{"rfilename": file} for file in repo.files]})
        if named := re.fullmatch(r"/(?:(spaces)/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            repo = self.hub.repos.get((named[1] or "models", named[2]))
            content = repo.files.get(named[3]) if repo else None
            if repo is None or content is None:
                return self.say(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return self.say(200, content, ETag=f'"{blob(content)}"', X_Repo_Commit=repo.sha)
        return self.say(404, {"error": "not here"})

    do_HEAD = do_GET


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def blob(content: bytes) -> str:
    """Git's name of a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
