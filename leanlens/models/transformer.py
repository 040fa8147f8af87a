"""Defines the Lens denoiser: 48 identical double-stream blocks over image and text tokens.

From packed latents, the features of several language-model layers and a noise level, it predicts the velocity
`noise - data` of every latent.

Shapes: B batch, L image tokens (h * w, 16 x 16 pixels each), S text tokens, C = in_channels (128 = 32 latent channels
x 2 x 2), E width of one text feature layer, D = heads * head_dim, H heads, K = head_dim.

Sources: Lens, arXiv 2605.21573, section 3; weight names, config keys and numerics are those of the released
checkpoints. Where the paper and the released code differ, this file follows the code.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.hooks.tensor_parallel import PackedColwiseParallel
from diffusers.loaders import PeftAdapterMixin
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.attention import AttentionMixin, AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import AdaLayerNormContinuous, RMSNorm
from diffusers.utils import apply_lora_scale
from torch import Tensor, nn
from torch.nn import functional as F

from leanlens.bounds import check_config
from leanlens.models.modulation_cache import Modulation, ModulationCache
from leanlens.models.safetensors_only import SafetensorsOnlyMixin

ROPE_THETA = 10000.0
MAX_TEXT_POSITION = 4096  # the released code tabulates positions -4096 .. 4095

# Step caches of diffusers that are tested to work correctly with this network.
SUPPORTED_CACHES = ("FirstBlockCacheConfig", "MagCacheConfig", "TaylorSeerCacheConfig")


@dataclass(frozen=True)
class Segments:
    """Number of image and text tokens of each packed sample, in order."""

    image: tuple[int, ...]
    text: tuple[int, ...]


class LensTransformer2DModel(
    SafetensorsOnlyMixin, ModelMixin, ConfigMixin, PeftAdapterMixin, CacheMixin, AttentionMixin
):
    """The whole network. The defaults are the released 4,104,225,152-parameter configuration.

    Args:
        patch_size: side of the square of VAE latents in one token. Only describes the packing.
        in_channels: channels of one packed token, VAE channels * patch_size^2.
        out_channels: VAE channels; the network outputs `patch_size^2 * out_channels` per token.
        num_layers: number of double-stream blocks.
        attention_head_dim: channels of one head; must equal `sum(axes_dims_rope)`.
        num_attention_heads: number of heads. The width of the network is heads * head_dim.
        inner_dim: part of the released config files but unused; the width follows from the heads.
        enc_hidden_dim: channels of one text feature layer.
        axes_dims_rope: rotary channels for (frame, height, width), each even.
        gate_mlp, rms_norm, multi_layer_encoder_feature: part of the released config files; only True is supported.
        selected_layer_index: 0-based language-model layers of the text features. The network only uses their number;
            the text encoder uses their values.

    Raises:
        ValueError: an unsupported combination of arguments.
    """

    _supports_gradient_checkpointing = True
    _supports_group_offloading = True
    _no_split_modules = ["LensTransformerBlock"]  # noqa: RUF012 - read by diffusers as class attributes
    _repeated_blocks = ["LensTransformerBlock"]  # noqa: RUF012
    # Modulation and embedders in low precision cause a periodic grid in images, so they are not cast.
    _skip_layerwise_casting_patterns = [  # noqa: RUF012
        "norm", "img_mod", "txt_mod", "time_text_embed", "img_in", "txt_in", "norm_out", "proj_out",
    ]  # fmt: skip
    # Heads and hidden channels are sharded; modulation is computed once per image on every process.
    _tp_plan = {  # noqa: RUF012
        "transformer_blocks.*.attn.img_qkv": PackedColwiseParallel([1, 1, 1]),
        "transformer_blocks.*.attn.txt_qkv": PackedColwiseParallel([1, 1, 1]),
        "transformer_blocks.*.attn.to_out.0": "rowwise",
        "transformer_blocks.*.attn.to_add_out": "rowwise",
        "transformer_blocks.*.img_mlp.w1": "colwise",
        "transformer_blocks.*.img_mlp.w3": "colwise",
        "transformer_blocks.*.img_mlp.w2": "rowwise",
        "transformer_blocks.*.txt_mlp.w1": "colwise",
        "transformer_blocks.*.txt_mlp.w3": "colwise",
        "transformer_blocks.*.txt_mlp.w2": "rowwise",
    }
    _cp_plan = {  # noqa: RUF012
        "transformer_blocks.0": {
            "hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False),
            "encoder_hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False),
        },
        "pos_embed": {
            0: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True),
            1: ContextParallelInput(split_dim=0, expected_dims=2, split_output=True),
        },
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(
        self,
        patch_size: int = 2,
        in_channels: int = 128,
        out_channels: int = 32,
        num_layers: int = 48,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        inner_dim: int | None = None,
        enc_hidden_dim: int = 2880,
        axes_dims_rope: tuple[int, ...] = (8, 28, 28),
        gate_mlp: bool = True,
        rms_norm: bool = True,
        multi_layer_encoder_feature: bool = True,
        selected_layer_index: tuple[int, ...] = (5, 11, 17, 23),
    ):
        super().__init__()
        _check_config(self.config)
        width = num_attention_heads * attention_head_dim
        self.pos_embed = LensRotaryEmbedding(tuple(axes_dims_rope))
        self.time_text_embed = LensTimestepEmbedding(width)
        self.img_in = nn.Linear(in_channels, width)
        self.txt_norm = nn.ModuleList(RMSNorm(enc_hidden_dim, eps=1e-5) for _ in selected_layer_index)
        self.txt_in = nn.Linear(enc_hidden_dim * len(selected_layer_index), width)
        self.transformer_blocks = nn.ModuleList(
            LensTransformerBlock(width, num_attention_heads, attention_head_dim) for _ in range(num_layers)
        )
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)  # scale before shift
        self.proj_out = nn.Linear(width, patch_size * patch_size * out_channels)
        self.gradient_checkpointing = False
        self.blocks_are_compiled = False

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: list[Tensor],
        encoder_hidden_states_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        img_shapes: list[tuple[int, int, int]] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool | None = None,
        text_lengths: list[int] | None = None,
        modulation_cache: ModulationCache | None = None,
    ) -> Tensor | tuple[Tensor] | Transformer2DModelOutput:
        """Predict the velocity of packed latents.

        Args:
            hidden_states: packed latents (B, L, C), row-major over an h x w grid of tokens.
            encoder_hidden_states: one feature tensor (B, S, E) for each selected language-model layer; S may be 0.
            encoder_hidden_states_mask: (B, S) bool, False for padding. None means no padding and keeps attention
                unmasked, which the fast attention kernels require.
            timestep: (B,) or scalar noise level in 0..1; 1 is pure noise. It is rounded to the dtype of
                `hidden_states` before it is embedded, as the released code does.
            img_shapes: `[(1, h, w)]`, the token grid.
            attention_kwargs: `{"scale": s}` scales LoRA adapters for this call.
            return_dict: None returns the velocity tensor (like the released code), False a tuple of one, True a
                `Transformer2DModelOutput`.
            text_lengths: packs N samples of any sizes into one row: `hidden_states` (1, sum of L, C) and features
                (1, sum of S, E) contain them one after another, `img_shapes` has one grid and this list one text length
                (possibly 0) for each, `timestep` is a scalar or (N,), and there is no mask. Samples do not attend to
                each other: the result is that of N calls.
            modulation_cache: the cache of the generation that this call belongs to, for values that are the same in
                every call. All samples have the cache's current noise level, and the last block skips its text stream.
                A model that is compiled as a whole ignores it, because its graph would serve one generation only.

        Returns:
            The velocity `noise - data`, (B, L, patch_size^2 * out_channels), in the dtype of `hidden_states`.

        Raises:
            ValueError: the shapes of the inputs do not fit each other.
        """
        if torch.compiler.is_compiling():
            # The compiler would guard its dictionaries object by object and recompile for each generation.
            modulation_cache = None
        samples = hidden_states.shape[0] if text_lengths is None else len(text_lengths)
        self._check_inputs(
            hidden_states, encoder_hidden_states, encoder_hidden_states_mask, timestep, img_shapes, samples
        )
        if encoder_hidden_states_mask is not None and text_lengths is not None:
            raise ValueError(
                "encoder_hidden_states_mask cannot be combined with text_lengths; pack text without padding"
            )
        if encoder_hidden_states_mask is not None and self._tokens_are_shared:
            raise ValueError(
                "encoder_hidden_states_mask cannot be combined with context parallelism: tokens are sharded over "
                "ranks; pass unpadded text and no mask"
            )
        segments, rotary = self._lay_out(hidden_states, encoder_hidden_states, img_shapes, text_lengths)
        image = self.img_in(hidden_states)  # (B, L, D)
        # Text (B, S, D); level (B, D), packed (N, D), with `modulation_cache` (1, D)
        if modulation_cache is None:
            text = self.project_text(encoder_hidden_states)
            temb = self.time_text_embed(timestep, image if segments is None else image.expand(samples, -1, -1))
        else:
            text, temb = modulation_cache.text(self, encoder_hidden_states), modulation_cache.embedding(self, image)
        mask = _key_mask(encoder_hidden_states_mask, image)  # (B, 1, 1, L + S) or None

        if self.blocks_are_compiled:
            image, text = image.clone(), text.clone()  # dynamic-shape graphs are specialised on views; both are views
        unread = None if modulation_cache is None or self.blocks_are_compiled else self.transformer_blocks[-1]
        for block in self.transformer_blocks:
            level = temb if modulation_cache is None else modulation_cache.modulation(block, temb)
            rest = (level, rotary, mask, segments, block is not unread)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                text, image = self._gradient_checkpointing_func(block, image, text, *rest)
            else:
                text, image = block(image, text, *rest)

        if segments is None or temb.shape[0] == 1:
            image = self.norm_out(image, temb)
        else:  # one row per token, because scale and shift depend on the token's sample
            image = self.norm_out(image.transpose(0, 1), _spread(temb, segments.image)[0]).transpose(0, 1)
        velocity = self.proj_out(image)
        if return_dict is None:
            return velocity
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    @property
    def _tokens_are_shared(self) -> bool:
        """Whether tokens are sharded over processes; with tensor parallelism, each process has all of them."""
        return self._parallel_config is not None and self._parallel_config.context_parallel_config is not None

    def project_text(self, features: list[Tensor]) -> Tensor:
        """Normalise each feature layer (B, S, E), join them along channels and project: (B, S, D)."""
        return self.txt_in(
            torch.cat([norm(layer) for norm, layer in zip(self.txt_norm, features, strict=True)], dim=-1)
        )

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """As in diffusers. All blocks share one graph; another for the last block without text would not pay off."""
        self.blocks_are_compiled = True
        super().compile_repeated_blocks(*args, **kwargs)

    def enable_cache(self, config: Any) -> None:
        """Turn on a step cache of diffusers, one of `SUPPORTED_CACHES`.

        Raises:
            ValueError: the cache would have no effect or give wrong images with Lens; the message gives the reason.
        """
        name = type(config).__name__
        if name not in SUPPORTED_CACHES:
            reasons = {
                "TextKVCacheConfig": "the text stream of Lens depends on the noise level and on the image, "
                "so its keys and values change at every step",
                "PyramidAttentionBroadcastConfig": "it caches one attention output for all branches, so the "
                "unconditional branch would get the conditional one",
                "FasterCacheConfig": "it needs unconditional samples first in the batch and outputs shaped as images; "
                "Lens has neither",
            }
            reason = reasons.get(name, "it is not tested with Lens")
            raise ValueError(f"{name} cannot be used with Lens: {reason}; use one of {', '.join(SUPPORTED_CACHES)}")
        _register_block_with_diffusers()
        super().enable_cache(config)

    def _lay_out(self, hidden_states, features, img_shapes, text_lengths) -> tuple[Segments | None, tuple[Tensor, ...]]:
        """The segments of a packed row (None for a plain batch) and the rotary tables of both streams."""
        device = hidden_states.device
        if text_lengths is None:
            return None, self.pos_embed(_grid_of(img_shapes, hidden_states.shape[1]), features[0].shape[1], device)
        if self._tokens_are_shared:
            raise ValueError("text_lengths cannot be combined with context parallelism; pass samples unpacked")
        segments = _segments_of(hidden_states, features[0], img_shapes, text_lengths)
        # Positions count from the centre of each sample; samples with the same grid share a cached table.
        grids, longest = [(height, width) for _, height, width in img_shapes], max(text_lengths)
        tables = {grid: self.pos_embed(grid, longest, device) for grid in set(grids)}
        image = [tables[grid][0] for grid in grids]
        text = [tables[grid][1][:length] for grid, length in zip(grids, text_lengths, strict=True)]
        return segments, (torch.cat(image), torch.cat(text))

    def _check_inputs(self, hidden_states, features, mask, timestep, img_shapes, samples: int) -> None:
        if timestep is None or img_shapes is None:
            raise ValueError("timestep and img_shapes are required: a noise level in 0..1 and [(1, h, w)]")
        if hidden_states.ndim != 3 or hidden_states.shape[-1] != self.config.in_channels:
            raise ValueError(
                f"hidden_states has shape {tuple(hidden_states.shape)}; "
                f"expected (batch, tokens, {self.config.in_channels})"
            )
        if len(features) != len(self.txt_norm):
            raise ValueError(
                f"encoder_hidden_states has {len(features)} layers; this model takes {len(self.txt_norm)}, "
                f"those of language-model layers {list(self.config.selected_layer_index)}"
            )
        batch, text_shape = hidden_states.shape[0], tuple(features[0].shape)
        for layer in features:
            if layer.ndim != 3 or layer.shape != (batch, text_shape[1], self.config.enc_hidden_dim):
                raise ValueError(
                    f"encoder_hidden_states has a tensor of shape {tuple(layer.shape)}; "
                    f"expected ({batch}, text tokens, {self.config.enc_hidden_dim}), the same for every layer"
                )
        if mask is not None and tuple(mask.shape) != text_shape[:2]:
            raise ValueError(
                f"encoder_hidden_states_mask has shape {tuple(mask.shape)}; "
                f"expected {text_shape[:2]}, one flag per text token"
            )
        if mask is not None and mask.is_floating_point():  # 0 and -inf would read as False and True
            raise ValueError(f"encoder_hidden_states_mask has dtype {mask.dtype}; expected bool, or integers 0 and 1")
        if timestep.ndim > 1 or timestep.numel() not in (1, samples):
            raise ValueError(f"timestep has shape {tuple(timestep.shape)}; expected a scalar or ({samples},)")


class LensTransformerBlock(nn.Module):
    """Joint attention over both streams, then a gated MLP in each; both modulated by the noise level."""

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.img_norm1 = RMSNorm(width, eps=1e-6)
        self.img_norm2 = RMSNorm(width, eps=1e-6)
        self.txt_norm1 = RMSNorm(width, eps=1e-6)
        self.txt_norm2 = RMSNorm(width, eps=1e-6)
        self.attn = LensAttention(width, heads, head_dim)
        self.img_mlp = LensGatedMLP(width)
        self.txt_mlp = LensGatedMLP(width)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Modulation,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        segments: Segments | None = None,
        text_is_read: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """(B, L, D), (B, S, D), (B, D) -> text (B, S, D), image (B, L, D): the order of the released code.

        With `segments`, B is 1 and `temb` (N, D) has a row for each packed sample. `temb` may also be the modulation of
        both streams, (1, 6 D) each. If `text_is_read` is False, the text is returned unchanged.
        """
        image, text = hidden_states, encoder_hidden_states
        text_is_read = text_is_read and not _is_nothing(text)
        img_mod, txt_mod = temb if isinstance(temb, tuple) else (self.img_mod(temb), self.txt_mod(temb))
        img_lengths, txt_lengths = (segments.image, segments.text) if segments else (None, None)
        # (B, 1, 3 D) each; packed, (1, tokens, 3 D)
        img_mod1, img_mod2 = _spread(img_mod, img_lengths).chunk(2, dim=-1)
        txt_mod1, txt_mod2 = _spread(txt_mod, txt_lengths).chunk(2, dim=-1)

        img_in, img_gate = _modulate(self.img_norm1(image), img_mod1)
        txt_in, txt_gate = _modulate(self.txt_norm1(text), txt_mod1)
        img_out, txt_out = self.attn(img_in, txt_in, rotary, attention_mask, segments, text_is_read)
        image = _within_float16(image + img_gate * img_out)
        img_in, img_gate = _modulate(self.img_norm2(image), img_mod2)
        image = _within_float16(image + img_gate * self.img_mlp(img_in))
        if not text_is_read:
            return text, image

        text = _within_float16(text + txt_gate * txt_out)
        txt_in, txt_gate = _modulate(self.txt_norm2(text), txt_mod2)
        text = _within_float16(text + txt_gate * self.txt_mlp(txt_in))
        return text, image


Streams = tuple[Tensor, Tensor, Tensor]  # query, key and value


class LensAttnProcessor:
    """Joint attention over [image, text] through diffusers' attention backend."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "LensAttention",
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        segments: Segments | None = None,
        text_is_read: bool = True,
    ) -> tuple[Tensor, Tensor]:
        img_q, img_k, img_v = attn.split_heads(attn.img_qkv(hidden_states))  # (B, L, H, K) each
        img_q, img_k = _rotate(attn.norm_q(img_q), rotary[0]), _rotate(attn.norm_k(img_k), rotary[0])
        img_qkv = (img_q, img_k, img_v)
        if _is_nothing(encoder_hidden_states):
            txt_qkv = (img_q[:, :0], img_k[:, :0], img_v[:, :0])
        else:
            txt_q, txt_k, txt_v = attn.split_heads(attn.txt_qkv(encoder_hidden_states))  # (B, S, H, K) each
            txt_q, txt_k = _rotate(attn.norm_added_q(txt_q), rotary[1]), _rotate(attn.norm_added_k(txt_k), rotary[1])
            txt_qkv = (txt_q, txt_k, txt_v)
        if segments is None:
            image, text = self._attend(img_qkv, txt_qkv, attention_mask)
        else:  # block-diagonal attention without the empty blocks: each sample separately
            image, text = self._attend_packed(img_qkv, txt_qkv, segments)
        return attn.to_out[1](attn.to_out[0](image)), attn.to_add_out(text) if text_is_read else text

    def _attend(self, image: Streams, text: Streams, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Query, key and value of both streams, (B, L, H, K) and (B, S, H, K) -> (B, L, D), (B, S, D)."""
        query, key, value = (_joined(*pair) for pair in zip(image, text, strict=True))
        joint = self.mix(query, key, value, mask).flatten(2).to(image[0].dtype)  # (B, L + S, D)
        tokens = image[0].shape[1]
        return joint[:, :tokens], joint[:, tokens:]

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention over N tokens, (B, N, H, K) each -> (B, N, H, K); the bool `mask` broadcasts to (B, H, N, N)."""
        return dispatch_attention_fn(
            query, key, value, attn_mask=mask, backend=self._attention_backend, parallel_config=self._parallel_config
        )

    def _attend_packed(self, image: Streams, text: Streams, segments: Segments) -> tuple[Tensor, Tensor]:
        """As `_attend`, for one row of several packed samples."""
        image_parts = zip(*(x.split(segments.image, dim=1) for x in image), strict=True)
        text_parts = zip(*(x.split(segments.text, dim=1) for x in text), strict=True)
        done = [self._attend(i, t, None) for i, t in zip(image_parts, text_parts, strict=True)]
        return torch.cat([i for i, _ in done], dim=1), torch.cat([t for _, t in done], dim=1)


class LensAttention(nn.Module, AttentionModuleMixin):
    """The weights of joint attention: fused query, key and value for each stream, normalised per head."""

    _default_processor_cls = LensAttnProcessor
    _available_processors = [LensAttnProcessor]  # noqa: RUF012
    _supports_qkv_fusion = False  # the released weights are fused already
    is_cross_attention = False
    processor: LensAttnProcessor

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.head_dim = head_dim
        self.img_qkv = nn.Linear(width, 3 * heads * head_dim)
        self.txt_qkv = nn.Linear(width, 3 * heads * head_dim)
        self.norm_q = RMSNorm(head_dim, eps=1e-6)
        self.norm_k = RMSNorm(head_dim, eps=1e-6)
        self.norm_added_q = RMSNorm(head_dim, eps=1e-6)
        self.norm_added_k = RMSNorm(head_dim, eps=1e-6)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_dim, width), nn.Identity()])
        self.to_add_out = nn.Linear(heads * head_dim, width)
        self.processor = LensAttnProcessor()

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        segments: Segments | None = None,
        text_is_read: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """(B, L, D), (B, S, D) -> image and text of the same shapes; unused text is not projected."""
        return self.processor(
            self, hidden_states, encoder_hidden_states, rotary, attention_mask, segments, text_is_read
        )

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3 * H * K) -> three tensors (B, N, H, K); query, key and value are contiguous thirds."""
        query, key, value = qkv.unflatten(-1, (3, -1, self.head_dim)).unbind(2)
        return query, key, value


class LensGatedMLP(nn.Module):
    """SwiGLU without biases: w2(SiLU(w1 x) * w3 x), hidden width int(width / 3 * 8)."""

    def __init__(self, width: int):
        super().__init__()
        hidden = int(width / 3 * 8)
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class LensTimestepEmbedding(nn.Module):
    """Noise level in 0..1 -> modulation vector: 256 sinusoids of 1000 t, then two linear layers."""

    def __init__(self, width: int):
        super().__init__()
        self.time_proj = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0, scale=1000)
        self.timestep_embedder = TimestepEmbedding(in_channels=256, time_embed_dim=width)

    def forward(self, timestep: Tensor, like: Tensor) -> Tensor:
        """`timestep` (B,) or scalar -> (B, D), with batch, device and dtype of `like` (B, L, D)."""
        timestep = timestep.to(like.device, like.dtype).expand(like.shape[0])
        return self.timestep_embedder(self.time_proj(timestep).to(like.dtype))


class LensRotaryEmbedding(nn.Module):
    """Rotary angles over (frame, height, width); the image grid is centred, text continues past its edge.

    Each table is (tokens, K) float32: cosines of the K / 2 channel pairs, then their sines. Real numbers instead of
    complex ones let compilers fuse the rotation. It is a separate module with one table per stream so that context
    parallelism can shard both by token.
    """

    def __init__(self, axes_dims: tuple[int, ...]):
        super().__init__()
        self.axes_dims = axes_dims

    def forward(self, grid: tuple[int, int], text_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Tables for an (h, w) grid of image tokens and for `text_tokens` text tokens."""
        first_text = max(grid[0] // 2, grid[1] // 2)
        if first_text + text_tokens > MAX_TEXT_POSITION:
            raise ValueError(
                f"{text_tokens} text tokens after position {first_text} exceed the last rotary position; "
                f"the limit for this size is {MAX_TEXT_POSITION - first_text}"
            )
        make = _make_rotary_tables if torch.compiler.is_compiling() else _rotary_tables  # no caching inside a graph
        return make(self.axes_dims, grid, text_tokens, device)


@lru_cache(maxsize=32)
def _rotary_tables(
    axes_dims: tuple[int, ...], grid: tuple[int, int], text_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    # Cached tables outlive this call, so they must not be inference tensors, which autograd cannot save for backward.
    with torch.inference_mode(False), torch.no_grad():
        return _make_rotary_tables(axes_dims, grid, text_tokens, device)


def _make_rotary_tables(
    axes_dims: tuple[int, ...], grid: tuple[int, int], text_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    height, width = grid
    rows = torch.arange(-(height - height // 2), height // 2, device=device)
    columns = torch.arange(-(width - width // 2), width // 2, device=device)
    frame = torch.zeros(height * width, dtype=rows.dtype, device=device)
    image = (frame, rows.repeat_interleave(width), columns.repeat(height))  # row-major
    text = torch.arange(text_tokens, device=device) + max(height // 2, width // 2)
    return _angles(axes_dims, image), _angles(axes_dims, (text,) * len(axes_dims))


def _angles(axes_dims: tuple[int, ...], positions: tuple[Tensor, ...]) -> Tensor:
    """Positions of N tokens on each axis -> (N, K): cosines, then sines, of position * 10000^(-2 j / dim)."""
    angles = []
    for dim, position in zip(axes_dims, positions, strict=True):
        exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=position.device).div(dim)
        angles.append(torch.outer(position.float(), 1.0 / torch.pow(ROPE_THETA, exponent)))
    angle = torch.cat(angles, dim=-1)  # (N, K / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate interleaved channel pairs of (B, N, H, K) by a table (N, K), in float32."""
    cos, sin = table[:, None].chunk(2, dim=-1)  # (N, 1, K / 2) each
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)  # (B, N, H, K / 2) each
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).to(x.dtype)


def _joined(image: Tensor, text: Tensor) -> Tensor:
    """(B, L, H, K), (B, S, H, K) -> (B, L + S, H, K)."""
    if image.device.type != "cpu":
        return torch.cat([image, text], dim=1)
    # The CPU kernel is faster if the tokens of one head are contiguous.
    return torch.cat([image.transpose(1, 2), text.transpose(1, 2)], dim=2).transpose(1, 2)


def _modulate(x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale (B, N, D) by (B, 1, 3 D) = shift, scale, gate; also returns the gate for the residual."""
    shift, scale, gate = modulation.chunk(3, dim=-1)
    return x * (1 + scale) + shift, gate


def _spread(rows: Tensor, lengths: tuple[int, ...] | None) -> Tensor:
    """(B, D) -> (B, 1, D) for broadcasting; with `lengths`, (N, D) -> (1, sum of lengths, D), one row per token."""
    if lengths is None or rows.shape[0] == 1:
        return rows.unsqueeze(1)
    return rows.repeat_interleave(torch.tensor(lengths, device=rows.device), dim=0, output_size=sum(lengths))[None]


def _is_nothing(text: Tensor) -> bool:
    """Whether there is no text to compute. False in training, where every weight needs a gradient, even if zero."""
    return text.shape[1] == 0 and not torch.is_grad_enabled()


def _within_float16(residual: Tensor) -> Tensor:
    """Clamp to the float16 range: the released weights exceed it, and an infinity becomes NaN in the next norm."""
    return residual.clip(-65504, 65504) if residual.dtype == torch.float16 else residual


def _key_mask(text_mask: Tensor | None, image: Tensor) -> Tensor | None:
    """(B, S) flags -> (B, 1, 1, L + S) bool: True for every image token and every text token that is not padding."""
    if text_mask is None or text_mask.shape[1] == 0:
        return None
    image_mask = torch.ones(image.shape[:2], dtype=torch.bool, device=image.device)
    return torch.cat([image_mask, text_mask.to(image.device, torch.bool)], dim=1)[:, None, None]


def _single_grid(img_shapes: Any) -> tuple[int, int, int]:
    """The grid of `[(1, h, w)]`, which may also be nested once per sample, as in related models, if all are equal."""
    shapes = [
        tuple(inner) for shape in img_shapes for inner in (shape if isinstance(shape[0], list | tuple) else [shape])
    ]
    # Compared one by one: a set needs plain numbers and would specialise a compiled graph to one size.
    if not shapes or len(shapes[0]) != 3 or any(shape != shapes[0] for shape in shapes[1:]):
        raise ValueError(f"invalid img_shapes {img_shapes}: expected [(1, h, w)], one grid for the whole batch")
    return shapes[0]


def _grid_of(img_shapes: Any, tokens: int) -> tuple[int, int]:
    """The one grid (h, w) of an unpacked batch."""
    frames, height, width = _single_grid(img_shapes)
    if frames != 1 or height * width != tokens:
        raise ValueError(
            f"img_shapes {img_shapes} does not fit hidden_states with {tokens} tokens; "
            "expected [(1, h, w)] with h * w tokens"
        )
    return height, width


def _segments_of(hidden_states: Tensor, features: Tensor, img_shapes: Any, text_lengths: Any) -> Segments:
    if len(img_shapes) != len(text_lengths) or not text_lengths:
        raise ValueError(
            f"img_shapes has {len(img_shapes)} grids and text_lengths {len(text_lengths)} lengths; "
            "give one of each for every packed sample"
        )
    if any(len(shape) != 3 or shape[0] != 1 for shape in img_shapes):
        raise ValueError(f"invalid img_shapes {img_shapes}: expected (1, h, w) for every packed sample")
    segments = Segments(tuple(h * w for _, h, w in img_shapes), tuple(text_lengths))
    streams = (("hidden_states", hidden_states, segments.image), ("encoder_hidden_states", features, segments.text))
    for name, tensor, lengths in streams:
        if tensor.shape[:2] != (1, sum(lengths)):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; packed samples of {list(lengths)} tokens need "
                f"(1, {sum(lengths)}, channels)"
            )
    return segments


def _check_config(config: Any) -> None:
    if not config.selected_layer_index:
        raise ValueError("selected_layer_index is empty; at least one language-model layer is needed")
    check_config(dict(config), "transformer configuration")
    if config.attention_head_dim != sum(config.axes_dims_rope) or any(dim % 2 for dim in config.axes_dims_rope):
        raise ValueError(
            f"axes_dims_rope {list(config.axes_dims_rope)} must be even and sum to attention_head_dim "
            f"{config.attention_head_dim}"
        )
    for key in ("gate_mlp", "rms_norm", "multi_layer_encoder_feature"):
        if not config[key]:
            raise ValueError(f"invalid {key} false: every released Lens checkpoint has it true")
    if config.in_channels != config.patch_size**2 * config.out_channels:
        raise ValueError(
            f"in_channels {config.in_channels} must equal patch_size^2 * out_channels = "
            f"{config.patch_size**2 * config.out_channels}"
        )


def _register_block_with_diffusers() -> None:
    """Register the order of the block's two outputs for diffusers' block caches."""
    try:
        from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
    except ImportError as error:  # a private module of diffusers
        raise ValueError("this version of diffusers cannot cache blocks of external models; 0.42 can") from error
    TransformerBlockRegistry.register(
        LensTransformerBlock,
        TransformerBlockMetadata(return_hidden_states_index=1, return_encoder_hidden_states_index=0),
    )
