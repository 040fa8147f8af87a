"""Draws many scenes in memory with every core; `build` writes them to files instead.

Shapes: N pictures of one size, (N, H, W, 3) uint8.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from random import Random

import numpy as np

from leanlens.scenes.describe import Caption, brief, dense
from leanlens.scenes.icons import Library, open_library
from leanlens.scenes.layout import Rules
from leanlens.scenes.render import render
from leanlens.scenes.scene import NO_RULES, Scene, Size, sample_scene

# (height, width) -> pictures, and the brief and the dense caption of each.
Chunk = dict[tuple[int, int], tuple[np.ndarray, list[tuple[str, str]]]]
SEED_STEP = 2**32  # scenes of one seed; scene i of seed s has seed s * SEED_STEP + i
CHUNK = 250  # scenes that a process draws at a time
AHEAD = 3  # chunks in the queue for each process


def captioned_scenes(
    seeds: range,
    icons: Library,
    split: str | None,
    size: Size,
    rules: Rules = NO_RULES,
    backgrounds: tuple[str, ...] = (),
) -> Iterator[tuple[Scene, Caption, Caption]]:
    """Scenes with a brief and a dense caption; no two neighbours have captions of one template.

    Args:
        backgrounds: kinds of which a scene has to have one; () takes any.
    """
    brief_template = dense_template = ""
    for seed in seeds:
        scene = sample_scene(seed, icons, split, size, rules)
        if backgrounds and scene.background.kind not in backgrounds:
            continue
        rng = Random(f"captions {seed}")
        short, long = brief(scene, rng, brief_template), dense(scene, rng, dense_template, rules.facts_first)
        brief_template, dense_template = short.template, long.template
        yield scene, short, long


def drawn_chunks(
    folder: Path,
    num: int,
    seed: int,
    canvas: Size,
    rules: Rules = NO_RULES,
    first: int = 0,
    processes: int | None = None,
    backgrounds: tuple[str, ...] = (),
) -> Iterator[Chunk]:
    """Scenes `first` to `num` - 1 of the split "train", in order.

    Args:
        folder: of a library.
        canvas: as `size` of `sample_scene`, (width, height).
        processes: that draw; None takes every core.
        backgrounds: as in `captioned_scenes`.
    """
    firsts = iter(range(first, num, CHUNK))
    workers = max(1, min(processes or cpu_count() or 1, -(-(num - first) // CHUNK)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:

        def begin(start: int) -> Future[Chunk]:
            count = min(CHUNK, num - start)
            return pool.submit(draw_chunk, str(folder), start, count, seed, canvas, rules, backgrounds)

        waiting = deque(begin(start) for start in islice(firsts, AHEAD * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(begin(start) for start in islice(firsts, 1))


def draw_chunk(
    folder: str,
    first: int,
    count: int,
    seed: int,
    canvas: Size,
    rules: Rules = NO_RULES,
    backgrounds: tuple[str, ...] = (),
) -> Chunk:
    """Scenes `first` to `first` + `count` - 1, by size."""
    icons = _opened(folder)
    pixels: dict[tuple[int, int], list[np.ndarray]] = {}
    captions: dict[tuple[int, int], list[tuple[str, str]]] = {}
    seeds = range(seed * SEED_STEP + first, seed * SEED_STEP + first + count)
    for scene, short, long in captioned_scenes(seeds, icons, "train", canvas, rules, backgrounds):
        pixels.setdefault((scene.height, scene.width), []).append(np.asarray(render(scene, icons)))
        captions.setdefault((scene.height, scene.width), []).append((short.text, long.text))
    return {size: (np.stack(rows), captions[size]) for size, rows in pixels.items()}


@lru_cache(maxsize=1)
def _opened(folder: str) -> Library:
    return open_library(Path(folder))
