"""ComfyUI's stock nodes by their published formulas, small enough to run a shipped graph around a toy model.

It runs a graph in the format of `/prompt` with a `LensPipeline` and noise, and returns the output of every node. It is
written from the formulas alone, with no code of leanlens's pipeline between prompt and latents, because it
is compared with that.

Shapes: B pictures, C channels, h x w tokens; ComfyUI keeps latents as (B, C, h, w).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor


@dataclass(frozen=True)
class Model:
    """A diffusion model (x0 from x, sigma and text), and what nodes have patched onto it."""

    denoised: Callable[[Tensor, Tensor, Any], Tensor]
    before_guidance: Callable[[dict], Tensor] | None = None
    after_guidance: Callable[[dict], Tensor] | None = None


def levels(steps: int, width: int, height: int) -> Tensor:
    """Flux2Scheduler: the empirical shift on a straight line from 1 to 0, in float32."""
    tokens = round(width * height / 256)
    long = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        mu = long
    else:
        short = 8.73809524e-05 * tokens + 1.89833333
        slope = (long - short) / 190.0
        mu = slope * steps + long - 200.0 * slope
    line = torch.linspace(1, 0, steps + 1)
    return math.exp(mu) / (math.exp(mu) + (1 / line - 1))


def norm_before_guidance(strength: float) -> Callable[[dict], Tensor]:
    """CFGNorm with pre_cfg: the combination gets the conditional length, over channels, and may grow."""

    def guide(given: dict) -> Tensor:
        conditional, unconditional = given["cond"], given["uncond"]
        mixed = unconditional + given["cond_scale"] * (conditional - unconditional)
        wanted = torch.linalg.vector_norm(conditional, dim=1, keepdim=True)
        length = torch.linalg.vector_norm(mixed, dim=1, keepdim=True)
        scaled = mixed * torch.where(length > 0, wanted / length.clamp_min(1e-12), torch.ones_like(length))
        return strength * scaled + (1 - strength) * mixed

    return guide


def norm_after_guidance(strength: float) -> Callable[[dict], Tensor]:
    """CFGNorm without pre_cfg: the predicted picture may only shrink to the length of the conditional one."""

    def guide(given: dict) -> Tensor:
        wanted = torch.linalg.vector_norm(given["cond_denoised"], dim=1, keepdim=True)
        length = torch.linalg.vector_norm(given["denoised"], dim=1, keepdim=True)
        return given["denoised"] * (wanted / (length + 1e-8)).clamp(0, 1) * strength

    return guide


def guided(model: Model, x: Tensor, sigma: Tensor, positive: Any, negative: Any, scale: float) -> Tensor:
    """CFGGuider: x0 of both texts, combined as the model's patches say; at scale 1 the negative one is left out."""
    conditional = model.denoised(x, sigma, positive)
    unconditional = torch.zeros_like(x) if math.isclose(scale, 1.0) else model.denoised(x, sigma, negative)
    given = {"cond_denoised": conditional, "cond_scale": scale}
    if model.before_guidance is None:
        result = unconditional + (conditional - unconditional) * scale
    else:
        result = x - model.before_guidance(given | {"cond": x - conditional, "uncond": x - unconditional})
    return result if model.after_guidance is None else model.after_guidance(given | {"denoised": result})


def euler(guide: Callable[[Tensor, Tensor], Tensor], noise: Tensor, sigmas: Tensor, latent: Tensor) -> Tensor:
    """SamplerCustomAdvanced with KSamplerSelect's euler, for a flow model."""
    x = sigmas[0] * noise + (1 - sigmas[0]) * latent
    for sigma, following in pairwise(sigmas):
        x = x + (x - guide(x, sigma)) / sigma * (following - sigma)
    return x


class Machine:
    """Runs a graph with `pipeline`'s weights; `noise` (B, C, h, w) stands in for RandomNoise's."""

    def __init__(self, pipeline: Any, noise: Tensor, picture: Image.Image | None = None):
        self.pipeline, self.noise, self.picture = pipeline, noise, picture

    @torch.no_grad()
    def run(self, graph: dict[str, dict]) -> dict[str, tuple]:
        """Node id -> its outputs. A graph that is not in running order is a KeyError."""
        done: dict[str, tuple] = {}
        for name, node in graph.items():
            inputs = {
                key: done[value[0]][value[1]] if isinstance(value, list) else value
                for key, value in node["inputs"].items()
            }
            done[name] = getattr(self, node["class_type"])(**inputs)
        return done

    def UNETLoader(self, unet_name, weight_dtype):
        def denoised(x: Tensor, sigma: Tensor, text: Any) -> Tensor:
            batch, channels, height, width = x.shape
            tokens = x.flatten(2).transpose(1, 2)
            layers, mask = text
            time = sigma.expand(batch)
            velocity = self.pipeline.transformer(tokens, layers, mask, time, [(1, height, width)])
            velocity = getattr(velocity, "sample", velocity)
            return x - velocity.transpose(1, 2).view(batch, channels, height, width) * sigma

        return (Model(denoised),)

    def CLIPLoader(self, clip_name, type, device):
        assert type == "lens"
        return (self.pipeline,)

    def CLIPTextEncode(self, clip, text):
        features, _ = clip.encode_prompt(text or "nothing")
        if not text:  # ComfyUI gives Lens a context of no tokens
            return (([layer[:, :0] for layer in features.layers], features.mask[:, :0]),)
        return ((features.layers, features.mask),)

    def VAELoader(self, vae_name):
        return (self.pipeline.vae,)

    def PrimitiveInt(self, value):
        return (value,)

    def CFGNorm(self, model, strength, pre_cfg):
        if pre_cfg:
            return (replace(model, before_guidance=norm_before_guidance(strength)),)
        return (replace(model, after_guidance=norm_after_guidance(strength)),)

    def CFGGuider(self, model, positive, negative, cfg):
        return (lambda x, sigma: guided(model, x, sigma, positive, negative, cfg),)

    def BasicGuider(self, model, conditioning):
        return (lambda x, sigma: model.denoised(x, sigma, conditioning),)

    def RandomNoise(self, noise_seed):
        return (self.noise,)

    def KSamplerSelect(self, sampler_name):
        assert sampler_name == "euler"
        return (euler,)

    def Flux2Scheduler(self, steps, width, height):
        return (levels(steps, width, height),)

    def SplitSigmasDenoise(self, sigmas, denoise):
        kept = round((len(sigmas) - 1) * denoise)
        return sigmas[:-kept], sigmas[-(kept + 1) :]

    def EmptyFlux2LatentImage(self, width, height, batch_size):
        return (torch.zeros(batch_size, 128, height // 16, width // 16),)

    def LoadImage(self, image):
        return self.picture, None

    def ImageScale(self, image, upscale_method, width, height, crop):
        assert (upscale_method, crop) == ("lanczos", "center")
        return (ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS),)

    def VAEEncode(self, pixels, vae):
        values = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
        values = values.view(1, pixels.height, pixels.width, 3).permute(0, 3, 1, 2) / 127.5 - 1
        latent = vae.encode(values).latent_dist.mode()  # (B, 32, 2 h, 2 w)
        packed = torch.nn.functional.pixel_unshuffle(latent, 2)  # channel order (c, row, column)
        spread = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
        return ((packed - vae.bn.running_mean[:, None, None]) / spread[:, None, None],)

    def SamplerCustomAdvanced(self, noise, guider, sampler, sigmas, latent_image):
        drawn = sampler(guider, noise, sigmas, latent_image)
        return drawn, drawn

    def LoraLoaderModelOnly(self, model, lora_name, strength_model):
        return (model,)

    def VAEDecode(self, samples, vae):
        return (samples,)

    def SaveImage(self, images, filename_prefix):
        return ()
