"""Writes a trained pipeline folder into the package, in files of less than 16 MB. Live.

    python runs/nano_embed.py [--int8] EXPORT_FOLDER [OUTPUT_FOLDER [LIBRARY [AUTOENCODER_FOLDER]]]

With `--int8` every matrix of the transformer's blocks is INT8 codes with a scale for each row, half as large.
The card (`README.md`) stays as it is; `ATTRIBUTION.md` becomes that of the drawings of LIBRARY, "everyday" without it.
The decoder is that of AUTOENCODER_FOLDER where it is given, whose latents have to be the export's.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2

from leanlens.batches.encode import ENCODING
from leanlens.files import whole_file
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.presets import PRESETS
from leanlens.scenes.icons import library
from leanlens.weights.assemble import convert

NANO = Path(__file__).parents[1] / "leanlens" / "nano"
MOST = 64_000_000  # bytes in all
LARGEST = 16_000_000  # bytes of a file
SHARD = 14_000_000  # bytes of a file of the transformer


def main() -> None:
    given = read_arguments()
    export, output, shelf = given.export, given.output, library(given.library)
    output.mkdir(parents=True, exist_ok=True)
    for part in ("scheduler", "tokenizer", "text_encoder", "vae", "transformer"):
        shutil.rmtree(output / part, ignore_errors=True)
    for part in ("scheduler", "tokenizer", "text_encoder", "vae"):
        shutil.copytree(export / part, output / part)
    if given.autoencoder:
        replace_decoder(output / "vae", given.autoencoder)
    write_transformer(export / "transformer", output / "transformer", given.int8)
    forget_origin(output / "transformer" / "config.json")
    forget_origin(output / "vae" / "config.json", sample_size=PRESETS["nano"].base_resolution)
    index = json.loads((export / "model_index.json").read_text(encoding="utf-8"))
    with whole_file(output / "model_index.json") as temporary:
        temporary.write_text(json.dumps({**index, "_name_or_path": "nano"}, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(shelf.folder / "ATTRIBUTION.md", output / "ATTRIBUTION.md")
    for path in output.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    sizes = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    if max(sizes) > LARGEST or sum(sizes) > MOST:
        raise SystemExit(f"too large: {sum(sizes)} bytes in all, {max(sizes)} in the largest file")
    print(f"{output}  {sum(sizes) / 1e6:.1f} MB in {len(sizes)} files, the largest {max(sizes) / 1e6:.1f} MB")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("output", type=Path, nargs="?", default=NANO)
    parser.add_argument("library", nargs="?", default="everyday")
    parser.add_argument("autoencoder", type=Path, nargs="?")
    parser.add_argument("--int8", action="store_true", help="the transformer in INT8, modulation included")
    return parser.parse_args()


def write_transformer(source: Path, target: Path, int8: bool) -> None:
    """The denoiser in bfloat16, or its blocks' matrices in INT8 and the rest in bfloat16."""
    if int8:
        tensors = SHARD * 99 // 100  # the rest for their names and places
        convert(source, target, dtype=torch.bfloat16, quant="int8", modulation=True, shard_bytes=tensors)
        return
    model = LensTransformer2DModel.from_pretrained(source, torch_dtype=torch.bfloat16)
    model.save_pretrained(target, max_shard_size=SHARD)


def replace_decoder(vae: Path, fresh: Path) -> None:
    """Put the decoder of `fresh` into `vae`, whose latents it has to have: all else is equal."""
    old, new = (AutoencoderKLFlux2.from_pretrained(path, torch_dtype=torch.float16) for path in (vae, fresh))
    kept = {name: value for name, value in old.state_dict().items() if name.split(".")[0] in ENCODING}
    other = [name for name, value in kept.items() if not torch.equal(value, new.state_dict()[name])]
    if other:
        raise SystemExit(f"{fresh} has other latents than {vae}: {', '.join(other[:3])} differ")
    old.load_state_dict(new.state_dict())
    old.save_pretrained(vae)  # with its own configuration, which names the size that pictures have


def forget_origin(path: Path, **others: int) -> None:
    """Take the folder that a part was opened from out of its configuration, since it is of one machine only, and put
    other values in."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("_name_or_path", None)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**values, **others}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
