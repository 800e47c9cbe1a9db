"""What is said to a GPU before its first use, with a stand-in for the driver: its documented functions, no GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import gpu
from trainer.distributed import choose_device, join_world
from trainer.errors import DeviceError


class Driver:
    """libcuda.so.1 as far as it is asked: CUDA driver API, cuInit to cuDevicePrimaryCtxSetFlags."""

    def __init__(self, calls: list[str], *, cuda: int = 13000, capability: tuple[int, int] = (8, 6)) -> None:
        self.calls, self._cuda, self._capability = calls, cuda, capability

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        _set(version, self._cuda)
        return 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:
        _set(handle, 100 + index)
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: Any) -> int:
        _set(value, self._capability[{75: 0, 76: 1}[attribute]])
        return 0

    def cuDevicePrimaryCtxSetFlags_v2(self, handle: Any, flags: int) -> int:
        self.calls.append(f"flags {flags} of {handle.value}")
        return 0


def _set(reference: Any, value: int) -> None:
    ctypes.cast(reference, ctypes.POINTER(ctypes.c_int))[0] = value


Pretend = Callable[..., list[str]]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretend]:
    """A machine with GPUs as far as torch and the driver tell; gives the calls that would use one."""
    before = torch.backends.cudnn.benchmark

    def machine(*, gpus: int = 1, usable: bool = True, driver: bool = True, **of_driver: Any) -> list[str]:
        calls: list[str] = []
        stand_in = Driver(calls, **of_driver) if driver else None
        monkeypatch.setattr("trainer.gpu._libcuda", lambda: stand_in)
        monkeypatch.setattr("torch.cuda.is_available", lambda: usable)
        monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
        monkeypatch.setattr(
            "torch.cuda.set_device",
            lambda device: calls.append(f"use {device}, cudnn.benchmark {torch.backends.cudnn.benchmark}"),
        )
        return calls

    yield machine
    torch.backends.cudnn.benchmark = before


def test_waiting_asleep_and_cudnns_search_are_set_before_the_gpu_is_used(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pretend(gpus=2)
    monkeypatch.setattr("trainer.ranks.local_rank", lambda: 1)
    with join_world("auto") as world:
        assert world.device == torch.device("cuda", 1)

    assert calls == ["flags 4 of 101", "use cuda:1, cudnn.benchmark True"]


def test_processes_with_gpus_share_host_memory_in_the_way_that_no_driver_crashes_at(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """NCCL reads its environment when its first communicator is made; the backend here is torch's fake one."""
    import torch.testing._internal.distributed.fake_pg

    pretend()
    made: list[tuple[str, str | None]] = []
    init = torch.distributed.init_process_group

    def fake(backend: str, **options: Any) -> None:
        import os

        made.append((backend, os.environ.get("NCCL_CUMEM_HOST_ENABLE")))
        init("fake", **options)

    monkeypatch.delenv("NCCL_CUMEM_HOST_ENABLE", raising=False)
    monkeypatch.setattr("torch.distributed.init_process_group", fake)
    monkeypatch.setattr("torch.distributed.new_group", lambda **_: torch.distributed.group.WORLD)
    monkeypatch.setattr("trainer.ranks.world_size", lambda: 2)
    monkeypatch.setattr(
        "trainer.distributed.rendezvous",
        lambda _: iter([(torch.distributed.FileStore(str(tmp_path / "store"), 1), 0, 2)]),
    )
    with join_world("cuda") as world:
        assert world.size == 2

    assert made == [("nccl", "0")]


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        ({"driver": False}, "no NVIDIA driver can be reached here"),
        (
            {"cuda": 12040},
            "the NVIDIA driver knows CUDA 12.4, and this PyTorch is built for CUDA 13.0: install driver R580",
        ),
        ({"usable": False}, "the NVIDIA driver answers, but no GPU can be used here"),
        (
            {"capability": (7, 0)},
            r"GPU 0 has compute capability 7.0, .*\(CUDA 13.0\) holds no code .*rent a newer one",
        ),
    ],
)
def test_a_gpu_that_cannot_be_used_is_refused_with_what_to_do(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, machine: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_75", "sm_80", "sm_86", "sm_90"])
    calls = pretend(**machine)

    with pytest.raises(DeviceError, match=sentence):
        choose_device("cuda")
    assert not calls, "it must be said before the GPU is used"


def test_auto_takes_the_cpu_only_where_no_gpu_could_be_meant(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pretend(driver=False, usable=False)
    assert choose_device("auto") == "cpu"

    pretend(usable=False)
    with pytest.raises(DeviceError, match="no GPU can be used here"):
        choose_device("auto")

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((7, 5), ["sm_75", "sm_80"], True),
        ((8, 9), ["sm_75", "sm_86"], True),  # an L4: code of 8.6 runs on 8.9
        ((7, 0), ["sm_75", "sm_80", "compute_120"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # by compiling PTX
        ((12, 1), ["sm_100", "sm_120"], True),
        ((9, 0), ["sm_80", "sm_86"], False),
    ],
)
def test_code_runs_on_newer_gpus_of_its_generation_and_ptx_on_all_newer_ones(
    capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    assert gpu._has_code(capability, built) == runs


def test_torch_may_use_what_is_free_but_for_the_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4 of which CUDA has taken 0.5 GiB, and torch holds 2 GiB already."""
    gib = 2**30
    shares: list[float] = []
    gpu._available.cache_clear()
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (12 * gib, 14.5 * gib))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 2 * gib)
    monkeypatch.setattr(
        "torch.cuda.set_per_process_memory_fraction", lambda share, device: shares.append(share)
    )
    gpu.limit_memory(torch.device("cuda", 0), reserve=gib)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (11 * gib, 14.5 * gib))
    gpu.limit_memory(torch.device("cuda", 0), reserve=gib)

    assert shares == [pytest.approx(13 / 14.5)] * 2, "what DALI has taken since is its reserve"
    gpu._available.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 86, 90])
def test_triton_makes_code_for_the_gpus_one_can_rent(capability: int, tmp_path: Path) -> None:
    """torch.compile's kernels on a T4, an A10G and an H100; the compiler needs no GPU."""
    triton = pytest.importorskip("triton")
    source = tmp_path / "kernel.py"
    source.write_text(
        "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef relu(x, n, size: tl.constexpr):\n"
        "    at = tl.program_id(0) * size + tl.arange(0, size)\n"
        "    tl.store(x + at, tl.maximum(tl.load(x + at, at < n), 0.0), at < n)\n"
    )
    import importlib.util

    spec = importlib.util.spec_from_file_location("kernel", source)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    signature = {"x": "*fp16", "n": "i32", "size": "constexpr"}
    kernel = triton.compiler.ASTSource(module.relu, signature=signature, constexprs={(2,): 128})
    compiled = triton.compile(kernel, target=triton.backends.compiler.GPUTarget("cuda", capability, 32))

    assert f"sm_{capability}" in compiled.asm["ptx"]
    assert compiled.asm["cubin"]
