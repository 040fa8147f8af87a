"""A transformer that the user compiled, in the pipeline: few graphs, and the same pictures."""

import shutil

import pytest
import torch

from leanlens.pipeline.denoise import is_compiled
from leanlens.pipeline.toy import toy_pipeline

SIZES = [(64, 64), (96, 64), (64, 96), (128, 64), (64, 128), (96, 96), (128, 128), (160, 96), (96, 160), (48, 80)]


def in_place(pipeline, **options):
    pipeline.transformer.compile(**options)


def wrapped(pipeline, **options):
    pipeline.transformer = torch.compile(pipeline.transformer, **options)


def its_forward(pipeline, **options):
    pipeline.transformer.forward = torch.compile(pipeline.transformer.forward, **options)


def its_blocks(pipeline, **options):
    pipeline.transformer.compile_repeated_blocks(**options)


WAYS = [in_place, wrapped, its_forward, its_blocks]


@pytest.fixture
def pipeline():
    torch._dynamo.reset()
    made = toy_pipeline()
    made.set_progress_bar_config(disable=True)
    yield made
    torch._dynamo.reset()


@pytest.fixture
def graphs():
    """A compiler that runs each graph as it is and keeps it, for counting."""
    kept = []

    def keep(graph, _):
        kept.append(graph)
        return graph.forward

    keep.kept = kept
    return keep


def latents_of(pipeline, size=(64, 64), prompt="a cat", steps=2):
    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": steps, "guidance_scale": 3.0, "output_type": "latent"}
    return pipeline(prompt, height=size[0], width=size[1], generator=generator, **options).images


def test_the_same_drawing_again_compiles_nothing(pipeline, graphs):
    plain = latents_of(pipeline)
    assert not is_compiled(pipeline.transformer)
    in_place(pipeline, fullgraph=True, backend=graphs)
    assert is_compiled(pipeline.transformer)
    for _ in range(3):
        torch.testing.assert_close(latents_of(pipeline), plain, rtol=0, atol=1e-4)
        assert len(graphs.kept) == 2  # with text and without


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.long
def test_two_graphs_serve_ten_sizes(pipeline, graphs, way):
    plain = [latents_of(pipeline, size) for size in SIZES]
    way(pipeline, fullgraph=True, dynamic=True, backend=graphs)
    for size, expected in zip(SIZES, plain, strict=True):
        torch.testing.assert_close(latents_of(pipeline, size), expected, rtol=0, atol=1e-4)
    assert len(graphs.kept) == 2
    # Texts of different lengths have a mask; their number and lengths, sizes and steps make no further graphs.
    batches = [["a cat", "two dogs and a lamp"], ["a", "a red apple", "rain"]] * 5
    for index, (size, prompts) in enumerate(zip(SIZES, batches, strict=True)):
        latents_of(pipeline, size, prompts, steps=2 + index % 3)  # first as many steps as pictures
    assert len(graphs.kept) == 4


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.long
def test_without_dynamic_the_graphs_stay_few(pipeline, graphs, way):
    way(pipeline, fullgraph=True, backend=graphs)
    for size in [*SIZES, *SIZES]:
        latents_of(pipeline, size)
    assert len(graphs.kept) <= 6  # torch makes a size dynamic when it first changes; height and width may do so apart


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor on the CPU needs a C++ compiler")
def test_the_real_compiler_draws_the_same(pipeline):
    plain = [latents_of(pipeline, size) for size in SIZES]
    torch._dynamo.utils.counters.clear()
    in_place(pipeline, fullgraph=True, dynamic=True)
    for size, expected in zip(SIZES, plain, strict=True):
        torch.testing.assert_close(latents_of(pipeline, size), expected, rtol=0, atol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]
