"""The scripts of rented machines in a bare container: real disks, mounts and git; Docker and AWS are stand-ins."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.conftest import no_engine
from trainer.cloud._user_data import render_data, render_train

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "machine"
ENDED = "shutdown -h +2 trainer has ended; 'shutdown -c' keeps the machine on"
NVME = "/mnt/trainer-nvme"
# The block of README about a box without Docker, line by line.
SECTION = (ROOT / "README.md").read_text().partition("\n## Without Docker")[2].partition("\n## ")[0]
README = [line.strip() + "\n" for line in re.findall(r"^    \S.*$", SECTION, re.MULTILINE)[:4]]
FETCH = f"compose run --rm --no-deps -T --volume /mnt/trainer-data/data:/from:ro --volume {NVME}/data:/to"


def uv_cache() -> Path:
    """Where uv keeps the packages that ./scripts/install has downloaded."""
    return Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")


class Machine:
    """A container, in which commands run as root."""

    def __init__(self, container: str) -> None:
        self.container = container

    def __call__(self, script: str, check: bool = True, **environment: object) -> str:
        """Run lines of bash; returns what they printed, both streams in one."""
        variables = [part for key, value in environment.items() for part in ("-e", f"{key}={value}")]
        done = subprocess.run(
            ["docker", "exec", "-i", *variables, self.container, "bash", "-euo", "pipefail", "-s"],
            input=script,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def boots_first(self, user_data: str) -> None:
        """As cloud-init does with user data."""
        self(f"cat >/user-data <<'END OF USER DATA'\n{user_data}\nEND OF USER DATA\nbash /user-data")

    @property
    def calls(self) -> list[str]:
        return self("cat /standins/calls").splitlines()

    @property
    def console(self) -> list[str]:
        return self("cat /dev/console").splitlines()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if reason := no_engine():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    repository = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "--quiet", "--bare", repository], check=True)
    git = [
        "git",
        f"--git-dir={repository}",
        f"--work-tree={ROOT}",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
    ]
    for command in (  # a branch of what the stand-ins need is quicker to clone
        ["add", "scripts/setup", ".env.example"],
        ["commit", "--quiet", "--message=small"],
        ["branch", "small"],
        ["add", "--all"],
        ["commit", "--quiet", "--message=as it is now"],
    ):
        subprocess.run([*git, *command], check=True, cwd=ROOT)
    image = subprocess.check_output(["docker", "build", "--quiet", HERE], text=True).strip()
    # To mount needs rights; the machine's disks are files on loop devices.
    rights = [
        "--cap-add=SYS_ADMIN",
        "--security-opt=apparmor=unconfined",
        "--security-opt=seccomp=unconfined",
    ]
    loops = ["--device=/dev/loop-control", "--device-cgroup-rule=b 7:* rwm"]
    settings = ["-e=PATH=/standins:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"]
    settings += ["-e=AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1338"]
    settings += [
        "-e=UV_LINK_MODE=symlink",
        f"--volume={uv_cache()}:/root/.cache/uv",
    ]  # 7 GB that this machine has
    settings += [f"--volume={repository}:/repository:ro"]
    command = ["docker", "run", "--detach", "--rm", *rights, *loops, *settings]
    container = subprocess.check_output([*command, image, "python3", "/metadata.py"], text=True).strip()
    machine = Machine(container)
    try:
        machine("git config --system safe.directory '*'; mkdir -p /etc/systemd/system")
        yield machine
    finally:
        machine("power disks; while read -r name _; do losetup -d $name; done </standins/disks", check=False)
        subprocess.run(["docker", "kill", container], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Machine:
    """A box without Docker, on which README's first two lines were run."""
    machine(f"cd /root\n{''.join(README[:2]).replace('REPOSITORY', 'file:///repository')}")
    return machine


def trains(**settings: object) -> str:
    """User data of a machine that trains."""
    usual = {
        "recipe": "rn50-75",
        "arguments": ["--name", "it's $HOME"],
        "repository": "file:///repository",
        "revision": "small",
        "data_device": "vol-0bbb",
        "copy_to_nvme": True,
        "env": {"RUNS_REMOTE": "s3://bucket/runs"},
        "env_parameter": "/trainer/env",
        "keep": False,
        "region": "eu-west-1",
    }
    return render_train(**(usual | settings))


def prepare_a_volume(machine: Machine, exit_code: int = 0) -> None:
    """The disks of a new instance, one of them with a data set; the trainer there ends with `exit_code`."""
    machine(
        f"""
        power disks
        data=$(awk '$2 == "vol0bbb" {{ print $1 }}' /standins/disks)
        mkfs.ext4 -q -L trainer-data $data
        mount $data /media
        mkdir -p /media/data/train && echo image >/media/data/train/one.jpeg && echo '{{}}' >/media/data/dataset.json
        umount /media
        echo {exit_code} >/standins/exit
        echo '  epoch 3/18 top-1 57.12% top-5 80.00% loss 1.900 5,000/s 1:00:00' >/standins/logs
        """
    )


def what_is_left(machine: Machine) -> str:
    """The settings, without what is drawn by lot, and all files of the disks."""
    return machine(
        f"""
        stat -c %a /opt/trainer/.env
        sed -n '/^# trainer cloud/,$p' /opt/trainer/.env
        cd /mnt && find . -type f | sort | xargs md5sum
        findmnt -no LABEL,OPTIONS {NVME}; findmnt -no LABEL,OPTIONS /mnt/trainer-data
        """
    )


def test_a_machine_trains_from_its_instance_store_and_stops_when_the_run_has_finished(
    machine: Machine,
) -> None:
    prepare_a_volume(machine)

    machine.boots_first(trains())
    assert machine.calls == [
        "systemctl daemon-reload",
        "systemctl enable --now --no-block trainer-machine.service",
    ]
    machine("power on")

    said = [line.partition(" hours=")[0] for line in machine.console]
    assert said == [f"trainer: state={state} starts=1" for state in ("preparing", "training", "finished")]
    assert machine.console[-1].endswith("epoch=3 epochs=18 top1=0.5712")
    compose = [call.split()[2] for call in machine.calls if call.startswith("docker compose ")]
    assert [word for word in compose if word not in ("version", "ps", "logs")] == [
        "stop",
        "build",
        "run",
        "up",
    ]
    assert machine.calls[-1] == ENDED
    left = what_is_left(machine)
    assert left.startswith("600\n# trainer cloud")
    for line in (
        f"DATA_DIR='{NVME}/data'", "RECIPE='rn50-75'", "RUNS_REMOTE='s3://bucket/runs'", "HF_TOKEN=hf_secret",
        "RUNS_KEY=eu-west-1",
    ):  # fmt: skip
        assert line in left.splitlines()
    assert "./trainer-nvme/data/dataset.json" in left
    assert "hf_secret" not in machine("cat /var/lib/trainer-machine/log /usr/local/sbin/trainer-machine")

    # Started again after a stop: the instance store is blank, the rest as it was.
    machine("power cut; wipefs --quiet --all $(awk '/NVMe/ { print $1 }' /standins/disks); power on")

    assert what_is_left(machine) == left
    assert any(FETCH in call for call in machine.calls)
    machine("power cut; power on")  # rebooted: it is not
    assert what_is_left(machine) == left
    assert not any(FETCH in call for call in machine.calls)


def test_a_machine_that_is_killed_anywhere_goes_on_at_its_next_start(machine: Machine) -> None:
    prepare_a_volume(machine)
    machine.boots_first(trains())
    machine("power on")
    expected, calls = what_is_left(machine), machine.calls

    for killed in (
        "docker compose version",  # the repository is there
        "docker compose stop",  # and .env
        "lsblk -dnpo NAME,MODEL",  # and the volume
        "aws ssm",  # and the instance store; half of the settings are written
        "docker compose run",
        "docker compose up",
    ):
        at = next(number for number, call in enumerate(calls, 1) if call.startswith(killed))
        prepare_a_volume(machine)
        machine.boots_first(trains())
        machine(f"KILL_AT={at} power on", check=False)
        assert machine.calls == calls[:at]
        machine("power cut; power on")

        assert what_is_left(machine) == expected, f"killed at {killed}"
        assert machine.console[-1].startswith("trainer: state=finished starts=1 ")
        assert machine.calls[-1] == ENDED


def test_what_it_is_told_anew_while_it_is_stopped_counts_from_its_next_start_which_needs_no_network(
    machine: Machine,
) -> None:
    prepare_a_volume(machine)
    commit = machine("git -C /repository rev-parse small").strip()
    machine.boots_first(trains(revision=commit))
    machine("power on")
    assert any(call.startswith("docker compose build") for call in machine.calls)

    told = trains(revision=commit, repository="file:///nowhere", arguments=["--max-dollars", "25"])
    machine(f"cat >/user-data <<'END OF USER DATA'\n{told}\nEND OF USER DATA\npower cut; power on")

    assert "TRAINER_ARGS='--max-dollars 25'" in machine("cat /opt/trainer/.env").splitlines()
    assert not any(call.startswith("docker compose build") for call in machine.calls)
    assert machine.console[-1].startswith("trainer: state=finished starts=1 ")


@pytest.mark.parametrize(
    ("code", "last", "notice", "keep", "said", "off"),
    [
        (
            2,
            "\x1b[2Kthere is no recipe rn",
            False,
            False,
            "state=failed|reason=exit 2: there is no recipe rn",
            True,
        ),
        (75, "stopped", False, False, "state=stopped|reason=all is saved", True),
        # Docker started it again, and the budget that is spent refused that.
        (
            2,
            "the run in /runs/a has taken 2 h already, which is all that --max-hours 2 allows; give more to go on",
            False,
            False,
            "state=stopped|reason=all is saved",
            True,
        ),
        (75, "stopped", True, False, "state=training|", False),  # AWS stops it, and starts it again
        (0, "\x1b[1mdone\x1b[0m", False, True, "state=finished|", False),
    ],
)
def test_a_machine_says_how_its_run_ended_and_stops_unless_it_is_kept_or_aws_does(
    machine: Machine, code: int, last: str, notice: bool, keep: bool, said: str, off: bool
) -> None:
    prepare_a_volume(machine, code)
    machine(f"echo '{last}' >>/standins/logs; {'touch /standins/notice' if notice else ''}")

    machine.boots_first(trains(data_device="", keep=keep))
    machine("power on")

    state, _, reason = said.partition("|")
    assert state in machine.console[-1]
    assert reason in machine.console[-1]
    assert (machine.calls[-1] == ENDED) is off
    assert "DATA_DIR='" not in machine("cat /opt/trainer/.env")


@pytest.mark.parametrize(
    ("settings", "disks", "sentence"),
    [
        ({"repository": "file:///nowhere"}, "", "'/nowhere' does not appear to be a git repository"),
        ({"revision": "v9"}, "", "v9"),
        (
            {"data_device": "vol-0ccc"},
            "",
            "no volume vol-0ccc has been attached to this instance in 10 minutes",
        ),
        ({}, "wipefs --quiet --all DATA", "the volume vol-0bbb has no file system"),
        ({}, "mkfs.ext4 -q -F -L trainer-data DATA", "the volume vol-0bbb holds no data set"),
    ],
)
def test_a_machine_that_cannot_begin_says_why_and_stops(
    machine: Machine, settings: dict[str, str], disks: str, sentence: str
) -> None:
    prepare_a_volume(machine)
    machine(disks.replace("DATA", "$(awk '$2 == \"vol0bbb\" { print $1 }' /standins/disks)"))

    machine.boots_first(trains(**settings))
    machine("power on")

    assert "state=failed " in machine.console[-1]
    assert sentence in machine("cat /var/lib/trainer-machine/log")
    assert machine.calls[-1] == ENDED


@pytest.mark.parametrize(("starts", "tries"), [(1, 4), (2, 8)])
def test_a_machine_that_has_begun_before_tries_longer_before_it_gives_up(
    machine: Machine, starts: int, tries: int
) -> None:
    prepare_a_volume(machine)
    machine.boots_first(trains(repository="file:///nowhere"))
    for number in range(1, starts):
        machine(
            f"mkdir -p /var/lib/trainer-machine/starts; echo 60 >/var/lib/trainer-machine/starts/{number}"
        )
    machine("power on")

    assert machine.calls.count("docker info") == tries
    assert f"state=failed starts={starts} " in machine.console[-1]


@pytest.mark.parametrize("device", ["/dev/sdf", "vol-0bbb"])
def test_images_are_read_from_the_volume_where_the_instance_store_has_no_room(
    machine: Machine, device: str
) -> None:
    prepare_a_volume(machine)
    machine("mkfs.ext4 -q -L someone-elses $(awk '/NVMe/ { print $1 }' /standins/disks)")

    machine.boots_first(trains(data_device=device))
    machine("power on")

    assert "DATA_DIR='/mnt/trainer-data/data'" in machine("cat /opt/trainer/.env").splitlines()
    machine("until ls /var/lib/trainer-machine/warm-*; do sleep; done")  # read once, from end to end


def test_a_box_without_docker_trains_in_the_five_commands_of_readme(installed: Machine) -> None:
    *_, prepare, train = README
    less = "--set model=resnet18 --set epochs=1 --set schedule.warmup_epochs=0 --no-report --no-export --json"

    said = installed(f"cd /root/trainer\n{prepare}{train.strip()} {less}")

    assert '"num_images": 360' in said
    assert installed("ls -d /root/trainer/runs/digits-*/result.json")


def prepares(**settings: object) -> str:
    """User data of a machine that prepares a data set."""
    usual = {
        "source": "digits",
        "destination_device": "vol-0bbb",
        "repository": "file:///repository",
        "revision": "",
        "secrets_parameter": "/trainer/env",
        "shorter_side": None,
        "stop_when_done": True,
        "region": "eu-west-1",
    }
    return render_data(**(usual | settings))


def test_a_machine_fills_an_empty_volume_checks_it_and_ends(installed: Machine) -> None:
    installed("power disks; ln -s /root/trainer /opt/trainer")
    installed.boots_first(prepares())

    # Killed when the file system is made and mounted; then somebody starts it again.
    installed("KILL_AT=2 power on", check=False)
    assert installed.calls[1].startswith("aws ssm ")
    installed("power cut; power on")

    assert "state=ready " in installed.console[-1]
    assert installed.console[-1].endswith(" images=1797")
    assert installed.calls[-1].startswith("shutdown -h +2 ")
    volume = "mount $(awk '$2 == \"vol0bbb\" { print $1 }' /standins/disks) /media"
    assert "0 bad" in installed(f"{volume}; /root/trainer/.venv/bin/trainer check /media/data; umount /media")
    assert "trainer-data" in installed("blkid $(awk '$2 == \"vol0bbb\" { print $1 }' /standins/disks)")


@pytest.mark.parametrize("left", ["mkfs.ext4 -q -L photos", "mkswap --quiet"])
def test_a_volume_that_is_not_empty_stays_as_it_is(installed: Machine, left: str) -> None:
    installed("power disks; ln -s /root/trainer /opt/trainer")
    look = "awk '$2 == \"vol0bbb\" { print $1 }' /standins/disks | xargs md5sum"
    installed(f"{left} $(awk '$2 == \"vol0bbb\" {{ print $1 }}' /standins/disks)")
    before = installed(look)

    installed.boots_first(prepares())
    installed("power on")

    assert "state=failed " in installed.console[-1]
    assert "is not empty, and not ours" in installed.console[-1]
    assert installed(look) == before


def test_kaggles_own_program_is_asked_for_the_archive(installed: Machine) -> None:
    installed("power disks; ln -s /root/trainer /opt/trainer")
    installed.boots_first(prepares(source="kaggle"))
    said = installed("mkdir -p /var/lib/trainer-machine; trainer-machine prepare", check=False)

    # It is not reached from here, or does not know nobody.
    assert "api.kaggle.com" in said
    assert not {"usage:", "Traceback"} & set(said.split())
