"""Checks that the micro-batches of a recipe fit into the device's memory, before anything is built."""

import torch

from leanlens.dist import Group
from leanlens.plan.training import MicroBatch, activation_bytes, denoiser_parameters, largest_batch, state_bytes
from leanlens.resolution import TOKEN_PIXELS
from leanlens.train.config import TrainRecipe


def recipe_parameters(recipe: TrainRecipe) -> int:
    """Number of weights of a recipe's denoiser."""
    return denoiser_parameters(recipe.model.sizes, recipe.model.attention_head_dim)


def recipe_state_bytes(recipe: TrainRecipe, world_size: int) -> int:
    """Bytes on each device between the steps of a recipe."""
    return state_bytes(recipe_parameters(recipe), len(recipe.ema.stds), world_size)


def recipe_micro_batches(recipe: TrainRecipe, world_size: int) -> tuple[MicroBatch, ...]:
    """The micro-batch of each resolution as plain numbers; activations are those of its largest size."""

    def activations(table: tuple[tuple[int, int], ...]) -> int:
        tokens = max(height * width for height, width in table) // TOKEN_PIXELS**2
        train = recipe.train
        return activation_bytes(recipe.model.sizes, tokens, train.precision, world_size > 1, train.checkpointing)

    return tuple(MicroBatch(bucket.base, bucket.batch, activations(bucket.table)) for bucket in recipe.data.buckets)


def require_memory(recipe: TrainRecipe, group: Group) -> None:
    """Check every bucket's micro-batch against the device's memory.

    Raises:
        ValueError: one does not fit; the message names the largest that does.
    """
    memory, state = device_bytes(group.device), recipe_state_bytes(recipe, group.world_size)
    if memory <= state:
        raise ValueError(
            f"the model's training state needs {state / 1e9:.0f} GB on each device, "
            f"which has {memory / 1e9:.0f} GB; use more processes, or a smaller [model]"
        )
    together = recipe.train.micro_batches // group.world_size if recipe.train.pack else 1
    for batch in recipe_micro_batches(recipe, group.world_size):
        most = largest_batch(memory - state, batch.activations, together)
        if batch.pictures > most:
            needed = state + together * batch.pictures * batch.activations
            advice = f"the largest that fits is {most}" if most else "not even 1 fits"
            also = "" if recipe.train.checkpointing else ", or set train.checkpointing"
            raise ValueError(
                f"data.buckets: a micro-batch of {batch.pictures} at base {batch.base} needs about "
                f"{needed / 1e9:.0f} GB and the device has {memory / 1e9:.0f}; {advice}{also}"
            )


def device_bytes(device: torch.device) -> int:
    """Total memory of the device: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return psutil.virtual_memory().total
