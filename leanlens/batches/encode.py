"""Encodes batches of pixels and captions to latents and text features, with a cache on disk.

Shapes: B samples, h x w image tokens, L = h * w, C packed latent channels, S text tokens, E text width.

Cache entries are never stale: the key of latents is the SHA-256 of the cropped pixels and of the autoencoder, the key
of features that of the templated caption, the language model, its layers and its tokenizer. By default, each image and
caption is encoded separately, so that cached and computed values are bit-identical whatever else is in the batch;
`at_once` trades that for speed.
"""

import gc
import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from torch import Tensor, nn

from leanlens.batches.stream import Batch
from leanlens.models import vae as autoencoder
from leanlens.pipeline.feature_cache import FeatureCache
from leanlens.pipeline.features import TextFeatures, TextSide, join
from leanlens.pipeline.template_date import DEFAULT_DATE, MAX_SEQUENCE_LENGTH, resolve_date
from leanlens.pipeline.tokens import template_named
from leanlens.store import Store, content_key

ENCODING = ("encoder", "quant_conv", "bn")  # the parts of an autoencoder that latents depend on


@dataclass(frozen=True)
class EncodedBatch:
    """`latents` (B, L, C), normalised; `grid` (h, w); `text` with zero tokens (mask False) for dropped captions."""

    latents: Tensor
    grid: tuple[int, int]
    text: TextFeatures
    keys: list[str]
    index: int


class Encoder:
    """`Batch` -> `EncodedBatch`, on the devices and in the dtypes of the given models.

    Args:
        vae: the frozen autoencoder.
        text_side: tokenizer, language model and template.
        cache: cache for latents and text features; None computes them each time.
        template_date: the date in the conversation template, YYYY-MM-DD or "today".
        max_sequence_length: text tokens, including the template's prefix.
        at_once: images and captions per forward pass. 1 makes each bit-identical whatever its neighbours; more is
            faster and equal up to rounding.
        text_multiple: batches of text are padded to a multiple of this many tokens.
        precision: "float32", or "bfloat16" for only the matrix products and convolutions. Results are float32 in both
            cases. With "bfloat16", the autoencoder's weights are converted to channels-last.

    Cache keys do not include the device: results from one device are used on another.
    """

    def __init__(
        self,
        vae: AutoencoderKLFlux2,
        text_side: TextSide,
        cache: Store | None = None,
        template_date: str = DEFAULT_DATE,
        max_sequence_length: int = MAX_SEQUENCE_LENGTH,
        at_once: int = 1,
        text_multiple: int = 1,
        precision: str = "float32",
    ):
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"invalid precision {precision!r}: expected float32 or bfloat16")
        for name, value in (("at_once", at_once), ("text_multiple", text_multiple)):
            if value < 1:
                raise ValueError(f"invalid {name} {value}: expected 1 or more")
        self.vae = vae
        self.text_side: TextSide | None = text_side
        self.cache = cache
        self._features = FeatureCache(cache, memory=None)
        self.date = resolve_date(template_date)
        self.max_sequence_length = max_sequence_length
        self.at_once = at_once
        self.text_multiple = text_multiple
        self.precision = precision
        if precision == "bfloat16":  # the memory format in which its convolutions are fastest
            vae.to(memory_format=torch.channels_last)
        self._template = template_named(text_side.template, self.date)
        self._no_text = _no_text(text_side)
        # Checksums read every weight, so they are computed only if there is a cache.
        self._vae_sum = checksum(vae, ENCODING) if cache else ""
        self._text_sum = _text_checksum(text_side) if cache else ""

    @torch.no_grad()
    def __call__(self, batch: Batch) -> EncodedBatch:
        """Encode a batch.

        Raises:
            ValueError: a caption is not in the cache and the text encoder was unloaded.
        """
        side = autoencoder.token_pixels(self.vae)
        grid = (batch.bucket[0] // side, batch.bucket[1] // side)
        return EncodedBatch(self.latents(batch.pixels), grid, self.text(batch.captions), batch.keys, batch.index)

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> normalised packed latents (B, L, C)."""
        keys = [self._latent_key(picture) for picture in pixels] if self.cache else [""] * len(pixels)
        found = {i: kept["latents"] for i, key in enumerate(keys) if (kept := self._find(key))}
        missing = [i for i in range(len(pixels)) if i not in found]
        for group in _groups(missing, self.at_once):
            scaled = pixels[group].to(self.vae.device).float() / 127.5 - 1
            with self._computing():
                encoded = autoencoder.encode(self.vae, scaled).float()
            for i, latents in zip(group, encoded, strict=True):
                found[i] = latents
                self._keep(keys[i], {"latents": latents})
        return torch.stack([found[i].to(self.vae.device) for i in range(len(pixels))])

    @torch.no_grad()
    def text(self, captions: list[str]) -> TextFeatures:
        """Features of captions on the autoencoder's device, padded to the longest; a blank caption has no tokens."""
        written = list(dict.fromkeys(caption for caption in captions if caption.strip()))
        keys = {caption: self._text_key(caption) if self.cache else "" for caption in written}
        found = {caption: entry[0] for caption in written if (entry := self._features.load(keys[caption]))}
        for group in _groups([caption for caption in written if caption not in found], self.at_once):
            for caption, features in zip(group, self._encoded(group), strict=True):
                found[caption] = features
                if self.cache:
                    self._features.save(keys[caption], (features,))
        joined = join([_on(self.vae.device, found.get(caption, self._no_text)) for caption in captions])
        length = max(1, -(-joined.mask.shape[1] // self.text_multiple)) * self.text_multiple
        return joined.padded(length) if self.text_multiple > 1 else joined

    def encode_once(self, captions: Iterable[str]) -> int:
        """Encode all `captions` into the cache, unload the text encoder, and return the number of captions.

        The language model's memory is freed once the caller has no reference to it either.

        Raises:
            ValueError: there is no cache.
        """
        if self.cache is None:
            raise ValueError("encode_once needs an encoder with a cache")
        if self.text_side is None:
            raise ValueError("encode_once needs the text encoder, which was already unloaded; make a new Encoder")
        seen: set[bytes] = set()
        pending: list[str] = []
        for caption in captions:
            digest = hashlib.sha256(caption.encode()).digest()
            if not caption.strip() or digest in seen:
                continue
            seen.add(digest)
            if self._text_key(caption) not in self.cache:
                pending.append(caption)
            if len(pending) == self.at_once:
                self.text(pending)
                pending = []
        if pending:
            self.text(pending)
        self.evict()
        return len(seen)

    def evict(self) -> None:
        """Unload the text encoder; from now on, every caption must be in the cache."""
        self.text_side = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _encoded(self, captions: list[str]) -> list[TextFeatures]:
        """Features of each caption without padding, (1, S, E)."""
        if self.text_side is None:
            raise ValueError(
                f"caption {captions[0]!r} is not in the cache and the text encoder was unloaded; "
                "include it in encode_once"
            )
        with self._computing():
            features = self.text_side(captions, self.date, self.max_sequence_length)
        features = TextFeatures([x.to(self._no_text.layers[0].dtype) for x in features.layers], features.mask)
        rows = range(len(captions))
        return [TextFeatures([x[i : i + 1] for x in features.layers], features.mask[i : i + 1]).trimmed() for i in rows]

    def _computing(self) -> AbstractContextManager[Any]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.vae.device.type, torch.bfloat16)

    @property
    def _rounding(self) -> dict[str, str]:
        """The extra part of a cache key for reduced precision."""
        return {} if self.precision == "float32" else {"precision": self.precision}

    def _latent_key(self, picture: Tensor) -> str:
        pixels = hashlib.sha256(picture.cpu().contiguous().numpy().data).hexdigest()
        shape = list(picture.shape)
        return content_key(kind="latents", pixels=pixels, shape=shape, model=self._vae_sum, **self._rounding)

    def _text_key(self, caption: str) -> str:
        return content_key(
            kind="text",
            text=self._template.render(caption),
            dropped=self._template.prefix(),
            length=self.max_sequence_length,
            model=self._text_sum,
            **self._rounding,
        )

    def _find(self, key: str) -> dict[str, Tensor] | None:
        return self.cache.load(key) if self.cache else None

    def _keep(self, key: str, tensors: dict[str, Tensor]) -> None:
        if self.cache:
            self.cache.save(key, tensors)


def checksum(model: nn.Module, parts: Sequence[str] | None = None) -> str:
    """SHA-256 over a model's configuration and every byte of its weights and buffers, in 64 hexadecimal digits.

    Args:
        parts: submodules whose weights and buffers are included, such as `ENCODING`; None includes all.
    """
    config: Any = getattr(model, "config", {})
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    # Keys with a leading underscore, and the version, describe where a model came from, not what it is.
    kept = {name: value for name, value in config.items() if name[0] != "_" and name != "transformers_version"}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if parts is not None and name.split(".")[0] not in parts:
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _text_checksum(side: TextSide) -> str:
    """A checksum of everything that text features depend on, except the text."""
    tokenizer = side.tokenizer.backend_tokenizer.to_str()
    words = hashlib.sha256(tokenizer.encode()).hexdigest()
    return content_key(model=checksum(side.encoder), layers=list(side.layers), tokenizer=words)


def _no_text(side: TextSide) -> TextFeatures:
    """One row with zero tokens."""
    encoder = side.encoder
    empty = torch.zeros(1, 0, encoder.config.hidden_size, dtype=encoder.dtype, device=encoder.device)
    return TextFeatures([empty] * len(side.layers), torch.zeros(1, 0, dtype=torch.bool, device=encoder.device))


def _on(device: torch.device, features: TextFeatures) -> TextFeatures:
    return TextFeatures([x.to(device) for x in features.layers], features.mask.to(device))


def _groups(items: list, size: int) -> list[list]:
    return [items[first : first + size] for first in range(0, len(items), size)]
