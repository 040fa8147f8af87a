"""Writes the prompts of a suite to a file, so that they can be drawn by any other program."""

import json
from pathlib import Path

from leanlens.evaluate.draw import seeds_of
from leanlens.evaluate.suite import Suite
from leanlens.files import whole_file


def write_prompts(suite: Suite, path: Path, seeds: int | None = None, seed: int = 0) -> None:
    """One JSON object for each image: its file name, prompt, id, seed and size.

    Images with these names in a folder beside the file, named `prompts.jsonl` there, are what `--images` reads.

    Args:
        seeds: images of each prompt; the number of the official protocol without it.
    """
    lines = []
    for index, item in enumerate(suite.items):
        for again, one in enumerate(seeds_of(index, seeds or suite.images_per_prompt, seed)):
            row = {"file_name": f"{item.id}_{again}.png", "prompt": item.prompt, "id": item.id, "seed": one}
            lines.append(json.dumps({**row, **({} if item.size is None else {"size": list(item.size)})}))
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
