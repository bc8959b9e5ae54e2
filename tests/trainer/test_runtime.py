"""Device and precision."""

from __future__ import annotations

import sys

import pytest
import torch

from m3tl_cli.core.errors import ConfigError
from m3tl_cli.trainer.runtime import Runtime


def test_auto_finds_a_device_and_cpu_is_always_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert Runtime(device="auto", precision=32, threads=None).device.type == expected
    assert Runtime(device="cpu", precision=32, threads=None).device == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cuda:-1", "", "cpu0"])
def test_a_device_that_is_not_here_is_refused_with_those_that_are(device: str) -> None:
    with pytest.raises(ConfigError, match="cpu") as caught:
        Runtime(device=device, precision=32, threads=None)
    assert caught.value.place == "trainer.device"


def test_bf16_computes_in_bf16_and_keeps_parameters_in_float32() -> None:
    layer = torch.nn.Linear(4, 4)
    x = torch.randn(2, 4)
    for precision, dtype in ((32, torch.float32), ("bf16", torch.bfloat16)):
        runtime = Runtime(device="cpu", precision=precision, threads=None)  # type: ignore[arg-type]
        with runtime.autocast():
            assert layer(x).dtype == dtype
    assert layer.weight.dtype == torch.float32


def test_threads_are_set_for_the_process() -> None:
    Runtime(device="cpu", precision=32, threads=2)
    assert torch.get_num_threads() == 2
    Runtime(device="cpu", precision=32, threads=None)
    assert torch.get_num_threads() == 2


def test_peak_memory_is_that_of_this_process() -> None:
    runtime = Runtime(device="cpu", precision=32, threads=None)
    before = runtime.peak_memory()
    assert 10**7 < before < 10**12
    held = torch.ones(50 * 2**20)
    assert runtime.peak_memory() >= before + 3 * held.numel()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can start the mark again")
def test_a_run_does_not_inherit_the_peak_of_the_one_before() -> None:
    large = torch.ones(100 * 2**20)  # 400 MB
    first = Runtime(device="cpu", precision=32, threads=None).peak_memory()
    del large
    assert Runtime(device="cpu", precision=32, threads=None).peak_memory() < first - 3 * 10**8


@pytest.mark.gpu
def test_a_gpu_counts_its_own_memory() -> None:
    runtime = Runtime(device="cuda", precision=32, threads=None)
    before = runtime.peak_memory()
    torch.zeros(2**20, device="cuda")
    assert runtime.peak_memory() >= before + 4 * 2**20
