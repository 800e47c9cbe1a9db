"""`pull` puts into use what was registered, whole and tried, or leaves everything as it was and says why."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.export.device.conftest import ROOT, run, slow_cases
from tests.export.device.registry import Registry, serve
from trainer.sealed import check_seal, seal

PULL = ROOT / "scripts" / "jetson" / "pull"
SHELLS = [
    pytest.param(shell, marks=() if shell == "dash" else pytest.mark.slow)
    for shell in ("dash", "busybox sh", "bash --posix")
    if shutil.which(shell.split()[0])
]
FILES = ("model.onnx", "labels.txt", "preprocess.json", "inputs.npy", "verify.py")
Bundles = Callable[[str], Path]


@pytest.fixture(scope="session")
def bundles(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Makes bundles by name, whose verify.py takes no time: what it finds is asked in test_verify.py."""
    folder = tmp_path_factory.mktemp("bundles")

    def make(name: str) -> Path:
        if not (folder / name).exists():
            shutil.copytree(small_bundle, folder / name)
            (folder / name / "model.onnx").write_bytes(name.encode() * 50_000)
            (folder / name / "verify.py").write_text(
                "import os, sys; print(sorted(key for key in os.environ if 'MLFLOW' in key)); "
                f"sys.exit({name.partition('exit-')[2] or 0})"
            )
            for file in (folder / name).rglob("*"):
                if file.is_file() and file.name not in FILES:
                    file.unlink()
            seal(folder / name)
        return folder / name

    return make


@pytest.fixture
def registry(bundles: Bundles) -> Iterator[Registry]:
    """A server whose model `a model` has the champion 3."""
    registry = Registry()
    registry.publish(3, bundles("three"))
    with serve(registry):
        yield registry


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Where the device keeps its model."""
    return tmp_path / "on the device"


def pull(
    registry: Registry | str, device: Path, *arguments: str, shell: str = "sh", **environment: str
) -> subprocess.CompletedProcess[str]:
    server = registry if isinstance(registry, str) else registry.uri
    command = (*shell.split(), PULL, "a model", "--server", server, "--to", device, *arguments)
    return run(*command, **{"TRTEXEC": "/nowhere"} | environment)


def in_use(device: Path) -> Path:
    """The folder that `current` leads to, which is whole."""
    link = device / "current"
    assert link.is_symlink()
    check_seal(link.resolve(), required=("model.onnx",), ignored=None)
    return link.resolve()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_champion_comes_into_use_and_a_second_call_does_nothing(
    registry: Registry, device: Path, bundles: Bundles, shell: str
) -> None:
    first = pull(registry, device, shell=shell)
    assert first.returncode == 0, first.stdout
    assert first.stdout.splitlines()[-1] == f"pull: a model version 3 is in use: {device}/current"
    theirs = {path.relative_to(bundles("three")) for path in bundles("three").rglob("*")}
    assert {path.relative_to(in_use(device)) for path in in_use(device).rglob("*")} == theirs

    registry.asked.clear()
    again = pull(registry, device, shell=shell)
    assert again.stdout == "pull: a model@champion is version 3, which is in use already\n"
    assert (again.returncode, len(registry.asked)) == (0, 1)


@pytest.mark.slow
def test_the_two_last_versions_are_kept_and_the_one_before_costs_no_download(
    registry: Registry, device: Path, bundles: Bundles
) -> None:
    for version, name in ((3, "three"), (4, "four"), (5, "five")):
        registry.publish(version, bundles(name))
        assert pull(registry, device).returncode == 0
    kept = sorted(path.name.partition("-")[0] for path in (device / "versions").iterdir())
    assert kept == ["4", "5"]
    assert (device / "previous").resolve().name.startswith("4-")

    registry.aliases["champion"] = 4  # a rollback
    registry.asked.clear()
    assert pull(registry, device).returncode == 0
    assert in_use(device).name.startswith("4-")
    assert (device / "previous").resolve().name.startswith("5-")
    assert len(registry.asked) == 1


def test_another_alias_is_pulled_where_it_is_named(
    registry: Registry, device: Path, bundles: Bundles
) -> None:
    registry.publish(7, bundles("four"), alias="candidate")
    done = run("sh", PULL, "a model@candidate", "--server", f"{registry.uri}/", "--to", device)

    assert done.returncode == 0, done.stdout
    assert in_use(device).name.startswith("7-")


@pytest.mark.slow
def test_connections_that_break_are_gone_on_with(registry: Registry, device: Path) -> None:
    registry.cut = 100_000  # model.onnx has 250,000 bytes
    done = pull(registry, device)

    assert done.returncode == 0, done.stdout
    asked = [asked for path, asked in registry.asked if path.endswith("/model.onnx")]
    assert asked == ["", "bytes=100000-", "bytes=200000-"]
    in_use(device)


@pytest.mark.slow
def test_a_server_that_knows_no_ranges_sends_all_again(registry: Registry, device: Path) -> None:
    registry.cut, registry.ranges = 100_000, False

    assert pull(registry, device).returncode == 0
    in_use(device)


@pytest.mark.slow
def test_what_an_earlier_pull_has_downloaded_is_not_downloaded_again(
    registry: Registry, device: Path, bundles: Bundles
) -> None:
    registry.publish(4, bundles("exit-1"))
    assert pull(registry, device).returncode == 9
    registry.asked.clear()
    assert pull(registry, device).returncode == 9

    assert len(registry.asked) == 1


@pytest.mark.parametrize("name", ["model.onnx", *slow_cases("SHA256SUMS", "golden/inputs.npy", "verify.py")])
def test_a_changed_byte_is_refused_and_the_old_model_stays(
    registry: Registry, device: Path, bundles: Bundles, name: str
) -> None:
    pull(registry, device)
    registry.publish(4, bundles("four"))
    registry.changed = name
    done = pull(registry, device)

    assert done.returncode == 7
    assert f"pull: {name} of version 4 is not what was registered" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(f"; {in_use(device).name} stays in use")
    assert in_use(device).name.startswith("3-")

    registry.changed = ""
    assert pull(registry, device).returncode == 0
    assert in_use(device).name.startswith("4-")


@pytest.mark.parametrize(
    "path",
    [
        *("../evil", "a$(touch evil)", "engines/x.plan"),
        *slow_cases(
            "golden/../../evil", "/tmp/device-evil", "a//b", "./a", "-a", "a b", "a\\b", "SHA256SUMS", ""
        ),
    ],
)
def test_a_listing_that_leaves_its_folder_is_refused(
    registry: Registry, device: Path, bundles: Bundles, tmp_path: Path, path: str
) -> None:
    hostile = shutil.copytree(bundles("three"), tmp_path / "hostile")
    with (hostile / "SHA256SUMS").open("a") as sums:
        sums.write(f"{hashlib.sha256(b'').hexdigest()}  {path}\n")
    registry.publish(4, hostile)
    done = pull(registry, device)

    assert done.returncode == 7, done.stdout
    assert "pull: SHA256SUMS of version 4" in done.stdout
    assert not (device / "current").exists()
    assert not [file for file in tmp_path.rglob("*evil*") if file.name == "evil"]


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ({"page": b"<html>a router's page</html>"}, 3, "does not answer like an MLflow server"),
        ({"page": b"[]"}, 3, "does not answer like an MLflow server"),
        ({"page": b'{"model_version": {"version": "1/../.."}}'}, 3, "does not answer like an MLflow server"),
        ({"status": 404, "page": b"not found"}, 3, "does not answer like an MLflow server (HTTP 404)"),
        ({"status": 500, "page": b'{"error_code": "ODD", "message": "a\\nb"}'}, 3, "answers ODD: a b"),
        ({"status": 302}, 3, "leads elsewhere (302)"),
        ({"status": 403}, 4, "forbids it"),
        ({"login": "Bearer x"}, 4, "asks for a login: set MLFLOW_TRACKING_TOKEN"),
        ({"aliases": {"candidate": 3}}, 6, "has no model a model with the alias champion: Registered model alias"),
        ({"tags": {"bundle": ""}}, 6, "version 3 of a model has no bundle for devices"),
        ({"tags": {"bundle_sha256": ""}}, 6, "version 3 of a model has no bundle for devices"),
        ({"tags": {"bundle": "s3://bucket/bundle"}}, 6, "and not behind http://127.0.0.1"),
        ({"tags": {"bundle": "../../../etc"}}, 7, "the tag bundle of version 3 is no path"),
        ({"tags": {"bundle_sha256": "abc"}}, 7, "the tag bundle_sha256 of version 3 is no SHA-256"),
        ({"tags": {"bundle": "1/other"}}, 7, "has no SHA256SUMS for version 3"),
    ],
)  # fmt: skip
def test_a_wrong_server_or_answer_is_refused_in_a_sentence(
    registry: Registry, device: Path, fault: dict[str, object], code: int, says: str
) -> None:
    for name, value in fault.items():
        setattr(registry, name, value)
    done = pull(registry, device)

    assert (done.returncode, says in done.stdout) == (code, True), done.stdout
    assert (
        len(done.stdout.replace("pull: a model@champion is version 3; downloading\n", "").splitlines()) == 1
    )
    assert not (device / "current").exists()


def test_no_server_at_all_is_refused_in_a_sentence(device: Path) -> None:
    port = free_port()
    done = pull(f"http://127.0.0.1:{port}", device)

    assert done.returncode == 3
    assert f"pull: http://127.0.0.1:{port} cannot be reached: curl: (7)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "which model?"),
        (("m",), "where to?"),
        (("m", "--to", "d"), "which server?"),
        (("m", "--to", "d", "--server", "gpu-box:5000"), "is no address of a server"),
        (("m", "--to", "d", "--server", "http://ana:secret@gpu-box"), "the address has a password in it"),
        (("m@", "--to", "d", "--server", "http://x"), "is no NAME@ALIAS"),
        (("m", "n"), "one model at a time"),
        (("m", "--too", "d"), "there is no option --too"),
        (("m", "--to"), "--to needs a value"),
        (
            ("m", "--to", "d", "--server", "http://x", "--cacert", "/no/file"),
            "the certificate /no/file cannot be read",
        ),
    ],
)
def test_a_wrong_call_is_refused_in_a_sentence(arguments: tuple[str, ...], says: str) -> None:
    done = run("sh", PULL, *arguments)

    assert (done.returncode, says in done.stdout, len(done.stdout.splitlines())) == (2, True, 1), done.stdout
    assert "secret" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "header"),
    [
        ({"MLFLOW_TRACKING_TOKEN": 'a"b\\c'}, 'Bearer a"b\\c'),
        (
            {"MLFLOW_TRACKING_USERNAME": "ana", "MLFLOW_TRACKING_PASSWORD": 'p "1\\2'},
            "Basic " + base64.b64encode(b'ana:p "1\\2').decode(),
        ),
    ],
)
def test_the_login_reaches_the_server_and_stands_in_no_command_line_or_environment_of_the_bundle(
    registry: Registry, device: Path, environment: dict[str, str], header: str
) -> None:
    registry.login, registry.pause = header, 0.1
    seen: list[bytes] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            for command in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = command.read_bytes()
                except OSError:
                    continue
                if line.startswith(b"curl\0"):
                    seen.append(line)

    watcher = threading.Thread(target=look)
    watcher.start()
    done = pull(registry, device, **environment)
    over.set()
    watcher.join()

    assert done.returncode == 0, done.stdout
    assert seen
    secret = (environment.get("MLFLOW_TRACKING_TOKEN") or environment["MLFLOW_TRACKING_PASSWORD"]).encode()
    assert not [line for line in seen if secret in line]
    assert "\n[]\n" in done.stdout  # what verify.py sees of MLFLOW_*


@pytest.mark.slow
def test_a_certificate_of_nobodys_is_not_trusted_and_one_that_is_given_is(
    registry: Registry, device: Path, tmp_path: Path
) -> None:
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run(
        ["openssl", *request.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key", "-out", "cert"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with serve(registry, context):
        refused = pull(registry, device)
        taken = pull(registry, device, "--cacert", str(tmp_path / "cert"))

    assert (refused.returncode, "TLS certificate of https://" in refused.stdout) == (5, True), refused.stdout
    assert taken.returncode == 0, taken.stdout
    in_use(device)


@pytest.mark.skipif(os.getuid() != 0, reason="mounts a small disk")
def test_a_full_disk_is_refused_in_a_sentence_and_the_old_model_stays(
    registry: Registry, device: Path, bundles: Bundles
) -> None:
    device.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", device], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing may be mounted here")
    try:
        assert pull(registry, device).returncode == 0
        registry.publish(4, bundles("four-is-larger"))
        done = pull(registry, device)

        assert done.returncode == 8, done.stdout
        assert "pull: there is no room for model.onnx in" in done.stdout
        assert in_use(device).name.startswith("3-")
    finally:
        subprocess.run(["umount", device], check=True)


def test_a_folder_that_is_a_file_is_refused_in_a_sentence(registry: Registry, device: Path) -> None:
    device.write_text("mine")
    done = pull(registry, device)

    assert (done.returncode, "cannot be written" in done.stdout) == (8, True)
    assert device.read_text() == "mine"


def test_a_model_that_fails_or_cannot_be_tried_does_not_come_into_use(
    registry: Registry, device: Path, bundles: Bundles
) -> None:
    pull(registry, device)
    registry.publish(4, bundles("exit-1"))
    failed = pull(registry, device)
    registry.publish(5, bundles("exit-3"))
    untried = pull(registry, device)

    assert (failed.returncode, "version 4 does not pass verify.py" in failed.stdout) == (9, True)
    assert (untried.returncode, "version 5 cannot be tried here" in untried.stdout) == (9, True)
    assert in_use(device).name.startswith("3-")

    taken = pull(registry, device, "--unverified")
    assert (taken.returncode, "version 5 is taken by its digests alone" in taken.stdout) == (0, True)
    assert in_use(device).name.startswith("5-")


def test_only_the_bundle_that_was_asked_for_by_its_digest_is_taken(
    registry: Registry, device: Path, bundles: Bundles
) -> None:
    digest = hashlib.sha256((bundles("three") / "SHA256SUMS").read_bytes()).hexdigest()
    assert pull(registry, device, "--sha256", digest).returncode == 0
    registry.publish(4, bundles("four"))
    done = pull(registry, device, "--sha256", digest)

    assert (done.returncode, "was asked for" in done.stdout) == (7, True)
    assert in_use(device).name.startswith("3-")


@pytest.mark.slow
def test_a_model_that_was_damaged_on_the_device_is_downloaded_anew(registry: Registry, device: Path) -> None:
    pull(registry, device)
    (in_use(device) / "labels.txt").write_text("damaged")
    done = pull(registry, device)

    assert done.returncode == 0, done.stdout
    assert "the files of version 3 are damaged here" in done.stdout
    in_use(device)
    assert len(list((device / "versions").iterdir())) == 1
    assert "in use already" in pull(registry, device).stdout


@pytest.mark.slow
def test_of_two_pulls_at_once_one_works_and_the_other_says_so(registry: Registry, device: Path) -> None:
    registry.pause = 0.2
    with subprocess.Popen(
        ["sh", PULL, "a model", "--server", registry.uri, "--to", device], stdout=subprocess.DEVNULL
    ) as first:
        while not registry.asked:
            assert first.poll() is None
            time.sleep(0.01)
        second = pull(registry, device)

    assert (second.returncode, "another pull is at work" in second.stdout) == (10, True)
    assert first.returncode == 0
    in_use(device)


@pytest.fixture
def with_engine(bundles: Bundles, small_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that builds engines; its verify.py names those that it is to try, and fails if any is called bad."""
    folder = shutil.copytree(bundles("four"), tmp_path / "with engine")
    shutil.copy(small_bundle / "build_engine.sh", folder)
    (folder / "verify.py").write_text(
        "import sys; from pathlib import Path; here = Path(__file__).parent\n"
        "print('tried', *sorted(one.name for one in here.glob('engines/*.plan')))\n"
        "sys.exit(any(b'bad' in one.read_bytes()[-9:] for one in here.glob('engines/*.plan')))"
    )
    seal(folder)
    return folder


@pytest.mark.slow
def test_the_engine_is_built_before_the_model_comes_into_use_or_the_old_one_stays(
    registry: Registry, device: Path, with_engine: Path, trtexec: Callable[[str], Path]
) -> None:
    program = trtexec("10.3.0")
    pull(registry, device)
    registry.publish(4, with_engine)
    program.with_name("broken").touch()
    failed = pull(registry, device, TRTEXEC=str(program))
    assert (failed.returncode, "the engine of version 4 could not be built" in failed.stdout) == (9, True)
    assert in_use(device).name.startswith("3-")

    program.with_name("broken").unlink()
    done = pull(registry, device, "--engine", "--max-batch 2", TRTEXEC=str(program))
    assert done.returncode == 0, done.stdout
    (engine,) = (in_use(device) / "engines").glob("*.plan")
    assert engine.name.startswith("fp16-trt10.3.0-batch2-")
    assert (device / "timing.cache").exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_tensorrt_that_is_installed_or_upgraded_later_gets_its_engine(
    registry: Registry, device: Path, with_engine: Path, trtexec: Callable[[str], Path], shell: str
) -> None:
    registry.publish(4, with_engine)
    assert "no engine is built" in pull(registry, device, shell=shell).stdout
    for version in ("8.5.2", "10.3.0"):
        done = pull(registry, device, shell=shell, TRTEXEC=str(trtexec(version)))
        (engine,) = (in_use(device) / "engines").glob("*.plan")

        assert done.returncode == 0, done.stdout
        assert engine.name.startswith(f"fp16-trt{version}-")
        assert f"tried {engine.name}\n" in done.stdout
        again = pull(registry, device, shell=shell, TRTEXEC=str(trtexec(version)))
        assert again.stdout == "pull: a model@champion is version 4, which is in use already\n"
        assert again.returncode == 0


@pytest.mark.slow
def test_an_upgrade_whose_engine_does_not_pass_says_so_and_leaves_none_in_use(
    registry: Registry, device: Path, with_engine: Path, trtexec: Callable[[str], Path]
) -> None:
    (with_engine / "model.onnx").write_text("a model whose engine is bad")
    seal(with_engine)
    registry.publish(4, with_engine)
    assert pull(registry, device).returncode == 0
    done = pull(registry, device, TRTEXEC=str(trtexec("10.3.0")))

    assert (done.returncode, "version 4 does not pass verify.py; 4-" in done.stdout) == (9, True), done.stdout
    assert list((in_use(device) / "engines").glob("*.plan")) == []


@pytest.mark.slow
def test_twenty_killed_pulls_end_in_a_sound_current(
    registry: Registry, device: Path, bundles: Bundles
) -> None:
    """Killed with everything they started, as by a loss of power, while somebody uses the model all the time."""
    start = time.monotonic()
    assert pull(registry, device).returncode == 0
    whole = time.monotonic() - start
    chance, versions = random.Random(0), itertools.cycle([(4, "four"), (5, "five"), (3, "three")])
    version, name = next(versions)
    killed = 0
    missing, over = threading.Event(), threading.Event()

    def use() -> None:
        while not over.wait(0.001):
            if not (device / "current" / "model.onnx").exists():
                missing.set()

    user = threading.Thread(target=use, daemon=True)
    user.start()
    for _ in range(200):
        registry.publish(version, bundles(name))
        process = subprocess.Popen(
            ["sh", PULL, "a model", "--server", registry.uri, "--to", device],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(chance.uniform(0, 1.2) * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
        else:
            version, name = next(versions)  # this one is in use
        in_use(device)
        if (device / "previous").is_symlink():
            assert (device / "previous").resolve().is_dir()
        if killed == 20:
            break
    done = pull(registry, device)
    over.set()
    user.join()

    assert killed == 20
    assert not missing.is_set()
    assert done.returncode == 0, done.stdout
    assert in_use(device).name.startswith(f"{registry.aliases['champion']}-")
    assert "in use already" in pull(registry, device).stdout
    assert len(list((device / "versions").iterdir())) <= 2


def test_the_page_that_the_service_names_is_installed() -> None:
    (page,) = re.findall(
        r"^Documentation=file://(.+)$", (PULL.parent / "trainer-pull.service").read_text(), re.M
    )

    assert f" README.md {page}\n" in (PULL.parent / "README.md").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for name in ("trainer-pull.service", "trainer-pull.timer"):
        text = (PULL.parent / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/trainer-pull", str(PULL)))
    done = run(
        "systemd-analyze", "verify", tmp_path / "trainer-pull.service", tmp_path / "trainer-pull.timer"
    )

    assert done.returncode == 0, done.stdout
    assert str(tmp_path) not in done.stdout, done.stdout
