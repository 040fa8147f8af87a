"""A group of one needs no launcher; wrong devices are named."""

import pytest
import torch

from leanlens import dist


def test_one_process_is_a_group_of_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group = dist.join("cpu")
    assert (group.rank, group.world_size, group.device, group.leads) == (0, 1, torch.device("cpu"), True)
    assert dist.gathered("x") == ["x"]
    assert dist.summed(torch.tensor([2.0])).item() == 2.0
    dist.wait_for_all()
    dist.leave()


def test_devices_that_are_not_there_are_named(monkeypatch):
    with pytest.raises(ValueError, match="invalid device 'tpu': expected auto, cpu or cuda"):
        dist.join("tpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="local rank 2: this machine has 2 GPUs; start at most one"):
        dist.join("cuda")
