"""Whether a recipe fits into memory, before anything is built.

Comes in: a recipe and the number of processes. Goes out: bytes on each device, and an error that names the largest
micro-batch that fits. Arithmetic; knows nothing of models.

Weights, gradients, AdamW's two moments and every average are float32 and shared out over the processes. Activations
that the backward pass needs were counted on one block of full width: 77 bytes for each token and channel of a block in
bfloat16, twice that in float32; with recomputation only the input of each block, and one block at a time.
"""

import os

import torch

from leanlens.dist import Group
from leanlens.plan.compute import DenoiserSizes
from leanlens.train.config import Bucket, Model, TrainRecipe

TEXT_TOKENS = 256  # a long caption and what follows it in the template; the paper's mean is about 165
BLOCK_BYTES = 77


def denoiser_parameters(model: Model) -> int:
    """Weights of the denoiser."""
    d, e = model.width, model.enc_hidden_dim * len(model.selected_layer_index)
    hidden, c = DenoiserSizes(width=d).hidden, 4 * model.out_channels
    block = (
        2 * (3 * d * d + 3 * d + d * d + d + 3 * d * hidden + 6 * d * d + 6 * d) + 4 * d + 4 * model.attention_head_dim
    )
    ends = (c * d + d) + (e + e * d + d) + (256 * d + d + d * d + d) + (2 * d * d + 2 * d) + (c * d + c)
    return model.num_layers * block + ends


def state_bytes(recipe: TrainRecipe, world_size: int) -> int:
    """What lies on each device between steps: weights, gradients, optimiser, averages."""
    copies = 4 + len(recipe.ema.stds)
    return 4 * copies * denoiser_parameters(recipe.model) // world_size


def activation_bytes(recipe: TrainRecipe, bucket: Bucket) -> int:
    """What one picture of the largest size of a bucket keeps for its backward pass."""
    tokens = max(height * width for height, width in bucket.table) // 256 + TEXT_TOKENS
    per_value = 2 if recipe.train.precision == "bfloat16" else 4
    live = BLOCK_BYTES * per_value // 2
    blocks = recipe.model.num_layers
    per_channel = per_value * blocks + live if recipe.train.checkpointing else live * blocks
    return tokens * recipe.model.width * per_channel


def require_fit(recipe: TrainRecipe, group: Group) -> None:
    """Check every bucket's micro-batch against the device's memory.

    Raises:
        ValueError: one does not fit; the sentence names the largest that does.
    """
    memory = device_bytes(group.device)
    free = memory - state_bytes(recipe, group.world_size)
    if free <= 0:
        raise ValueError(
            f"the model's training state needs {state_bytes(recipe, group.world_size) / 1e9:.0f} GB on each device, "
            f"which has {memory / 1e9:.0f} GB; use more processes, or a smaller [model]"
        )
    for bucket in recipe.data.buckets:
        most = free // activation_bytes(recipe, bucket)
        if bucket.batch > most:
            advice = f"the largest that fits is {most}" if most else "not even 1 fits"
            also = "" if recipe.train.checkpointing else ", or set train.checkpointing"
            raise ValueError(
                f"data.buckets: a micro-batch of {bucket.batch} at base {bucket.base} needs about "
                f"{(bucket.batch * activation_bytes(recipe, bucket) + memory - free) / 1e9:.0f} GB and the device has "
                f"{memory / 1e9:.0f}; {advice}{also}"
            )


def device_bytes(device: torch.device) -> int:
    """All memory of the device: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
