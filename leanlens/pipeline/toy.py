"""Makes the `toy` model: a whole pipeline of random weights, with the real classes in a small size.

It draws coloured noise in a second, to try commands, clients and tools without a download, and for tests.
"""

import threading
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2
from transformers import GptOssConfig

from leanlens.models.text_encoder import LensGptOssEncoder
from leanlens.models.transformer import LensTransformer2DModel
from leanlens.pipeline.pipeline import LensPipeline
from leanlens.pipeline.tokens import learn_tokenizer
from leanlens.weights.assemble import official_scheduler

_ONE_AT_A_TIME = threading.Lock()  # its weights come from torch's random state, which all threads share


def toy_pipeline(seed: int = 0) -> LensPipeline:
    """Two transformer blocks, four GPT-OSS layers, a small autoencoder, float32; 128 x 128 pixels by default."""
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = toy_tokenizer()
        return LensPipeline(
            scheduler=official_scheduler(),
            vae=_toy_autoencoder(),
            text_encoder=_toy_text_encoder(len(tokenizer)),
            tokenizer=tokenizer,
            transformer=LensTransformer2DModel(
                num_layers=2, num_attention_heads=2, enc_hidden_dim=48, selected_layer_index=(0, 1, 2, 3)
            ).eval(),
        )


def toy_tokenizer() -> Any:
    """A byte-level tokenizer with GPT-OSS's special tokens and a few hundred merges learnt from its template."""
    return learn_tokenizer((), 512)


def _toy_text_encoder(vocabulary: int) -> LensGptOssEncoder:
    config = GptOssConfig(
        num_hidden_layers=4,
        num_local_experts=4,
        num_experts_per_tok=2,
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=48,
        head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
        initializer_range=0.2,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        lens_selected_layers=[0, 1, 2, 3],
    )
    return LensGptOssEncoder(config).eval()


def _toy_autoencoder() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=8, sample_size=128
    )
    # Random convolutions answer in greys near zero; a larger last layer makes colours.
    torch.nn.init.normal_(vae.decoder.conv_out.weight, std=0.2)
    return vae.eval()
