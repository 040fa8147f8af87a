"""The same recipe is the same run: on one process or two, in one micro-batch or eight, compiled or not."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from leanlens.train.denoiser import train_denoiser
from leanlens.train.run_weights import run_weights
from tests.train.tiny import CPU, tiny_data, tiny_recipe

MIXED = [{"base": 64, "batch": 3, "sizes": [[64, 64]]}, {"base": 48, "batch": 1, "sizes": [[48, 48]]}]


def trained(folder, **tables):
    recipe = tiny_recipe(folder, **tables)
    train_denoiser(recipe, CPU, tiny_data(recipe))
    return folder


def on_processes(number, jobs):
    """Run jobs one after the other in a group of `number` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(number):
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": number,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in place.items()}}
        command = [sys.executable, "-m", "tests.invariants.worker", json.dumps(jobs)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)
    return errors


def assert_same_run(left, right, rtol=1e-4, atol=2e-6):
    """Weights, averages and reported losses agree within float32 rounding."""
    for std in (0, 0.05, 0.1):
        torch.testing.assert_close(run_weights(left, std), run_weights(right, std), rtol=rtol, atol=atol)
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (left, right)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("average", ["sample", "rank"])
def test_packed_is_unpacked(tmp_path, average):
    """One row of several sizes gives the run that its micro-batches give one after the other."""
    common = {"steps": 3, "micro_batches": 4, "precision": "float32", "average": average}
    plain, packed = (
        trained(tmp_path / str(pack), data={"buckets": MIXED}, train={**common, "pack": pack}) for pack in (False, True)
    )
    assert_same_run(plain, packed)
    work = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (plain, packed)]
    assert work[0]["images"] == work[1]["images"]
    assert work[0]["text_tokens"] > work[1]["text_tokens"]  # no padding


def test_packed_gradients_are_unpacked_gradients(tmp_path):
    """To 1e-6 relative, on the loss and on every gradient of one step."""
    from leanlens.train.denoiser_model import build_denoiser
    from leanlens.train.step import accumulate_gradients

    found = []
    for pack in (False, True):
        recipe = tiny_recipe(
            tmp_path,
            data={"buckets": MIXED},
            train={"steps": 1, "micro_batches": 4, "precision": "float32", "pack": pack},
        )
        model = build_denoiser(recipe.model, 0)
        torch.manual_seed(0)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.1)
        data = tiny_data(recipe)
        micro = [batch for batch, _ in zip(data.stream, range(4), strict=False)]
        sums = accumulate_gradients(model, data, micro, 0, recipe, CPU)
        found.append((sums.loss, {name: weight.grad for name, weight in model.named_parameters()}))
    (loss, gradients), (packed_loss, packed_gradients) = found
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    compared = 0
    for name, gradient in gradients.items():
        if gradient is None or not gradient.any():
            continue
        difference = (packed_gradients[name].double() - gradient.double()).norm() / gradient.double().norm()
        assert difference < 1e-6, name
        compared += 1
    assert compared > 40


def test_eight_micro_batches_of_one_are_one_of_eight(tmp_path):
    one = {"buckets": [{"base": 64, "batch": 8, "sizes": [[64, 64]]}]}
    eight = {"buckets": [{"base": 64, "batch": 1, "sizes": [[64, 64]]}]}
    left = trained(tmp_path / "one", data=one, train={"micro_batches": 1})
    right = trained(tmp_path / "eight", data=eight, train={"micro_batches": 8})
    assert_same_run(left, right)


def assert_two_processes_are_one(tmp_path, tables, continued, **tolerances):
    tables = {**tables, "data": {"buckets": MIXED}, "train": {"micro_batches": 4, **tables.get("train", {})}}
    on_processes(2, [{"folder": str(tmp_path / "two"), "tables": tables}])
    assert_same_run(trained(tmp_path / "one", **tables), tmp_path / "two", **tolerances)
    if not continued:
        return
    # what two processes left, one continues
    tables["train"]["steps"] = 6
    left, right = trained(tmp_path / "one", **tables), trained(tmp_path / "two", **tables)
    assert_same_run(left, right, **tolerances)


def test_two_processes_are_one(tmp_path):
    looking = {"validate": {"every": 2}, "sample": {"every": 2, "prompts": ["a dog"], "steps": 1}}
    assert_two_processes_are_one(tmp_path, looking, continued=False)


@pytest.mark.long
@pytest.mark.parametrize(
    ("tables", "tolerances"),
    [
        ({"train": {"checkpointing": True}}, {}),
        ({"train": {"average": "rank"}}, {}),
        # Muon orthogonalises in bfloat16, so its updates (2e-4) agree to a few hundredths of themselves
        ({"optim": {"matrices": "muon"}}, {"rtol": 1e-2, "atol": 2e-5}),
    ],
    ids=["checkpointing", "rank", "muon"],
)
def test_two_processes_are_one_whatever_is_applied(tmp_path, tables, tolerances):
    assert_two_processes_are_one(tmp_path, tables, continued=True, **tolerances)


def test_recomputation_changes_memory_alone(tmp_path):
    left = trained(tmp_path / "plain")
    assert_same_run(left, trained(tmp_path / "recomputed", train={"checkpointing": True}))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_is_eager(tmp_path):
    """Within 1e-5 in the weights after four steps of size 1e-3: fused kernels round differently."""
    left = trained(tmp_path / "eager")
    right = trained(tmp_path / "compiled", train={"compile": True})
    assert_same_run(left, right, rtol=1e-3, atol=1e-5)
