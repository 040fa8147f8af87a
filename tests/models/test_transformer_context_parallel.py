"""Context parallelism: two processes share the tokens of one picture and give what one process gives.

diffusers means it for accelerators and asks torch how many there are; on the CPU the answer is none, so each process
says one. Ring attention is not tried: no CPU kernel gives back the log-sum-exp that it needs.
"""

import pytest
import torch

from leanlens.models.transformer import LensTransformer2DModel
from tests.models.processes import RANKS, found_by_each, join, write_down

GRID = (4, 6)
# Options of ContextParallelConfig, and how many text tokens. Odd numbers need `ulysses_anything`, none forbids it.
CASES = [({}, 6), ({}, 0), ({"ulysses_anything": True}, 5)]

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")


def make_model() -> LensTransformer2DModel:
    torch.manual_seed(0)
    made = LensTransformer2DModel(num_layers=2, num_attention_heads=2, enc_hidden_dim=32, selected_layer_index=(0, 1))
    return made.eval().requires_grad_(False)


def make_inputs(text: int) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(1, GRID[0] * GRID[1], 128, generator=generator),
        "encoder_hidden_states": [torch.randn(1, text, 32, generator=generator) for _ in range(2)],
        "timestep": torch.tensor([0.7]),
        "img_shapes": [(1, *GRID)],
    }


def share_tokens(rank: int, port: int, folder: str) -> None:
    """One process: every case, then its findings as JSON."""
    join(rank, port)
    found = [run_case(options, text) for options, text in CASES]
    write_down(found, rank, folder)


def run_case(options: dict, text: int) -> dict:
    from diffusers import ContextParallelConfig

    model, inputs, seen = make_model(), make_inputs(text), []
    alone = model(**inputs)
    model.set_attention_backend("native")
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=RANKS, **options))

    def look(block, args):
        image, text, _, rotary, *_ = args
        seen.append([image.shape[1], text.shape[1], *(table.shape[0] for table in rotary)])

    model.transformer_blocks[1].register_forward_pre_hook(look)
    shared = model(**inputs)
    refusals = []
    for forbidden in (
        {"encoder_hidden_states_mask": torch.ones(1, text, dtype=torch.bool)},
        {"text_lengths": [text]},
    ):
        try:
            model(**inputs, **forbidden)
        except ValueError as error:
            refusals.append(str(error).split(" parallelism")[0])
    return {
        "difference": (shared - alone).abs().max().item(),
        "shape": list(shared.shape),
        "tokens": seen,
        "refusals": refusals,
    }


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_two_processes_equal_one(tmp_path):
    found = found_by_each(share_tokens, tmp_path)
    image = GRID[0] * GRID[1]
    for (_, text), first, second in zip(CASES, *found, strict=True):
        for case in (first, second):
            assert case["difference"] < 1e-5
            assert case["shape"] == [1, image, 128]
            assert case["refusals"] == [
                "encoder_hidden_states_mask cannot be combined with context",
                "text_lengths cannot be combined with context",
            ]
        (first_tokens,), (second_tokens,) = first["tokens"], second["tokens"]
        assert first_tokens == [image // 2, text - text // 2] * 2  # image, text, and the rotary table of each
        assert second_tokens == [image // 2, text // 2] * 2
