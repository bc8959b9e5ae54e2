"""Checkpoints: whole or not at all, and nothing in them runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m3tl_cli.core.errors import DataError
from m3tl_cli.trainer import checkpoint
from tests.toys import states_equal


def test_nested_states_come_back_to_the_bit(tmp_path: Path) -> None:
    tied = torch.randn(3, 4)
    state = {
        "model": {"a.b": tied, "same": tied, "turned": torch.arange(6.0).view(2, 3).T, "half": torch.randn(2).bfloat16()},
        "numbers": [1, 2.5, None, True, "word", {"deep": torch.tensor(7)}],
        "counters": {"updates": 3},
    }
    checkpoint.save(tmp_path / "x.safetensors", state)
    assert states_equal(checkpoint.load(tmp_path / "x.safetensors"), state)
    assert checkpoint.updates(tmp_path / "x.safetensors") == 3


def test_a_new_checkpoint_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    for value in (1, 2):
        checkpoint.save(tmp_path / "x.safetensors", {"value": value})
    assert checkpoint.load(tmp_path / "x.safetensors") == {"value": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_what_is_no_checkpoint_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="readable safetensors"):
        checkpoint.load(tmp_path / "absent.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    with pytest.raises(DataError, match="readable safetensors"):
        checkpoint.load(tmp_path / "cut.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(DataError, match="written by m3tl"):
        checkpoint.load(tmp_path / "foreign.safetensors")
    assert checkpoint.updates(tmp_path / "absent.safetensors") == 0


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimiser_goes_on_as_if_nothing_had_happened(kind: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    def fresh() -> tuple[dict[str, torch.Tensor], torch.optim.Optimizer]:
        params = {"w": torch.nn.Parameter(torch.ones(3)), "b": torch.nn.Parameter(torch.zeros(()))}
        extra = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return dict(params), kind(list(params.values()), lr=0.1, **extra)  # type: ignore[arg-type]

    def step(params: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, n: int) -> None:
        for i in range(n):
            for p in params.values():
                p.grad = torch.full_like(p, 0.5 + i)
            optimizer.step()

    params, optimizer = fresh()
    step(params, optimizer, 3)
    names = {id(p): n for n, p in params.items()}
    checkpoint.save(tmp_path / "o.safetensors", {"optimizer": checkpoint.optimizer_state(optimizer, names), "model": params})
    state = checkpoint.load(tmp_path / "o.safetensors")
    step(params, optimizer, 2)

    again, other = fresh()
    with torch.no_grad():
        for n, p in again.items():
            p.copy_(state["model"][n])
    checkpoint.restore_optimizer(other, again, state["optimizer"])
    step(again, other, 2)
    assert states_equal(again, params)
