"""Whether a recipe fits into memory, computed before anything is built.

Weights, gradients, AdamW's two moments and every average are float32 and shared out over the processes. Activations
that the backward pass needs were counted on eager blocks, in bytes for each token and channel of a block: 154 in
float32, 129 under autocast (norms keep float32), 77 where sharded weights make everything bfloat16. With recomputation
only the input of each block stays, and one block at a time.
"""

import torch

from leanlens.dist import Group
from leanlens.plan.compute import DenoiserSizes
from leanlens.train.config import Bucket, Model, TrainRecipe

TEXT_TOKENS = 256  # a long caption and what follows it in the template; the paper's mean is about 165
FLOAT32_BYTES, AUTOCAST_BYTES, SHARDED_BYTES = 154, 129, 77  # for each token and channel of a block


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


def activation_bytes(recipe: TrainRecipe, bucket: Bucket, world_size: int = 1) -> int:
    """What one picture of the largest size of a bucket keeps for its backward pass."""
    tokens = max(height * width for height, width in bucket.table) // 256 + TEXT_TOKENS
    half = recipe.train.precision == "bfloat16"
    live = FLOAT32_BYTES if not half else SHARDED_BYTES if world_size > 1 else AUTOCAST_BYTES
    blocks = recipe.model.num_layers
    per_channel = (2 if half else 4) * blocks + live if recipe.train.checkpointing else live * blocks
    return tokens * recipe.model.width * per_channel


def require_memory(recipe: TrainRecipe, group: Group) -> None:
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
    together = recipe.train.micro_batches // group.world_size if recipe.train.pack else 1
    for bucket in recipe.data.buckets:
        each = together * activation_bytes(recipe, bucket, group.world_size)
        most = free // each
        if bucket.batch > most:
            advice = f"the largest that fits is {most}" if most else "not even 1 fits"
            also = "" if recipe.train.checkpointing else ", or set train.checkpointing"
            raise ValueError(
                f"data.buckets: a micro-batch of {bucket.batch} at base {bucket.base} needs about "
                f"{(bucket.batch * each + memory - free) / 1e9:.0f} GB and the device has "
                f"{memory / 1e9:.0f}; {advice}{also}"
            )


def device_bytes(device: torch.device) -> int:
    """All memory of the device: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return psutil.virtual_memory().total
