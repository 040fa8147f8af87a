"""Extracts features of several layers of a frozen language model from token ids; `pipeline/tokens.py` makes those.

Shapes: B batch, S tokens, E width of the language model.

Source: Lens, arXiv 2605.21573, section 3; layer numbers are those of the released config, which counts from 0. (The
paper's text names the 4th, 12th, 18th and 24th layer; the released code takes the 6th, 12th, 18th and 24th.)
"""

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssModel

from leanlens.models.safetensors_only import require_bounds, require_safetensors

LENS_LAYERS = (5, 11, 17, 23)


class LensGptOssEncoder(GptOssForCausalLM):
    """GPT-OSS as a feature extractor: returns the residual stream after selected layers.

    Layers after the last selected one, the final norm and the language-model head are not built, so the head's 1.2 GB
    are neither allocated nor read. Weights keep their stock GPT-OSS names; stock checkpoints open unchanged.

    Args:
        config: a GPT-OSS configuration. An extra key `lens_selected_layers` gives the layers, counted from 0; the
            default is 5, 11, 17, 23, or the last four of a model with fewer layers.
        lens_keep_head: build the whole language model including its head, which `generate` needs.
        lens_selected_layers: the layers, if the configuration does not have them.
    """

    def __init__(
        self,
        config: GptOssConfig,
        lens_keep_head: bool = False,
        lens_selected_layers: list[int] | tuple[int, ...] | None = None,
    ):
        super(GptOssForCausalLM, self).__init__(config)  # its own __init__ would build the head
        self.model = GptOssModel(config)
        self.vocab_size = config.vocab_size
        if lens_selected_layers is not None:
            config.lens_selected_layers = list(lens_selected_layers)
        stated = getattr(config, "lens_selected_layers", None)
        self.selected_layers = self._checked(stated or default_layers(config.num_hidden_layers))
        if lens_keep_head:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        else:
            self._trim()
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, but only from safetensors: a `.bin` file is never opened.

        Raises:
            ValueError: `use_safetensors=False`, or a configuration out of bounds.
        """
        require_safetensors("use_safetensors", kwargs.pop("use_safetensors", None))
        require_bounds(pretrained_model_name_or_path, kwargs.get("subfolder"))
        return super().from_pretrained(pretrained_model_name_or_path, *args, use_safetensors=True, **kwargs)

    @property
    def has_head(self) -> bool:
        """Whether this encoder can also generate text, which a prompt reasoner needs."""
        return hasattr(self, "lm_head")

    def set_selected_layers(self, indices: "list[int] | tuple[int, ...]") -> None:
        """Select the layers whose output `forward` returns, counted from 0, in the order of the features.

        Raises:
            ValueError: the model has no such layer.
        """
        self.selected_layers = self._checked(indices)
        self.config.lens_selected_layers = list(indices)

    def _checked(self, indices: "list[int] | tuple[int, ...]") -> tuple[int, ...]:
        available = len(self.model.layers)
        wrong = [index for index in indices if not 0 <= index < available]
        if wrong or not indices:
            raise ValueError(
                f"invalid selected layers {list(indices)}: this encoder has layers 0 to {available - 1}"
                + ("" if self.config.num_hidden_layers == available else "; later ones were not built")
            )
        return tuple(indices)

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        """Features of the selected layers.

        Args:
            input_ids: (B, S) int64, right-padded.
            attention_mask: (B, S), 1 for a token and 0 for padding; None means no padding.

        Returns:
            A list with one (B, S, E) tensor for each selected layer: the residual stream after it, not normalised.
            During text generation (a call with `past_key_values` or that requests logits), the stock output of GPT-OSS.
        """
        if self.has_head and ("past_key_values" in kwargs or "logits_to_keep" in kwargs or "labels" in kwargs):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if input_ids is None:
            raise ValueError("input_ids is required: token ids of shape (batch, tokens)")
        hidden = self.model.embed_tokens(input_ids)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
        # Positions count from the start of each row; padding is on the right, so no real token attends to it.
        mask_inputs = {
            "config": self.config,
            "inputs_embeds": hidden,
            "attention_mask": attention_mask,
            "past_key_values": None,
        }
        masks = {
            "full_attention": create_causal_mask(**mask_inputs),
            "sliding_attention": create_sliding_window_causal_mask(**mask_inputs),
        }
        rotary = self.model.rotary_emb(hidden, positions)
        features: dict[int, Tensor] = {}
        for index, layer in enumerate(self.model.layers[: max(self.selected_layers) + 1]):
            hidden = layer(
                hidden,
                attention_mask=masks[self.config.layer_types[index]],
                position_ids=positions,
                position_embeddings=rotary,
                use_cache=False,
            )
            if index in self.selected_layers:
                features[index] = hidden
        return [features[index] for index in self.selected_layers]

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate text with GPT-OSS.

        Raises:
            ValueError: this encoder was built without its language-model head.
        """
        if not self.has_head:
            raise ValueError(
                "this encoder was opened without its language-model head; open it with lens_keep_head=True"
            )
        return super().generate(*args, **kwargs)

    def _trim(self) -> None:
        """Remove modules that no feature needs, and make the loader ignore their weights in a checkpoint."""
        kept = max(self.selected_layers) + 1
        unneeded = ("lm_head.", "model.norm.", *(f"model.layers.{i}." for i in range(kept, len(self.model.layers))))
        self.model.layers = self.model.layers[:kept]
        self.model.norm = nn.Identity()
        self._tied_weights_keys: dict[str, str] = {}
        self._keys_to_ignore_on_load_unexpected = {"^" + re.escape(prefix) for prefix in unneeded}
        self.register_load_state_dict_pre_hook(partial(_forget, unneeded))


def _forget(unneeded: tuple[str, ...], module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop names that start with one of `unneeded` before a state dict is loaded."""
    for name in [name for name in state_dict if name.startswith(tuple(prefix + start for start in unneeded))]:
        del state_dict[name]


def default_layers(depth: int) -> tuple[int, ...]:
    """The layers of the released Lens if the language model is deep enough, otherwise its last four."""
    return LENS_LAYERS if depth > max(LENS_LAYERS) else tuple(range(max(0, depth - 4), depth))


def layer_features(
    model: PreTrainedModel, layers: tuple[int, ...], input_ids: Tensor, attention_mask: Tensor
) -> list[Tensor]:
    """Features of `layers` (counted from 0) of any frozen transformers language model, each (B, S, E).

    `LensGptOssEncoder` returns them directly. Other models return all their hidden states; layer i is entry i + 1,
    because entry 0 are the embeddings. (Decoder-only models of transformers apply the final norm to the last entry.)

    Raises:
        ValueError: the model has no such layer.
    """
    if isinstance(model, LensGptOssEncoder):
        if model.selected_layers != tuple(layers):
            model.set_selected_layers(layers)
        return model(input_ids=input_ids, attention_mask=attention_mask)
    states = model(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
    if max(layers) + 1 >= len(states) or min(layers) < 0:
        raise ValueError(f"invalid layers {list(layers)}: {type(model).__name__} has layers 0 to {len(states) - 2}")
    return [states[layer + 1] for layer in layers]
