"""All settings of a server, with the defaults of `leanlens serve`."""

from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from leanlens.pipeline.request import MAX_PROMPT_CHARACTERS
from leanlens.plan.options import LoadOptions


class ServerSettings(BaseModel):
    """The operator's settings. `ServerSettings.checked(...)` raises a one-sentence `ValueError` for a wrong one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = ("nano",)
    """Models that requests may name, by name or path; the first is the default and is opened at the start."""
    model_folders: tuple[Path, ...] = ()
    """Folders whose model folders and weight files requests may name."""
    lora_folders: tuple[Path, ...] = ()
    """Folders whose LoRA files requests may name."""
    output: Path = Path("leanlens-pictures")
    """Folder for images, uploads and the index of jobs."""

    devices: tuple[str, ...] = ("auto",)
    """One worker for each: auto, cpu, cuda:0 and so on."""
    load: LoadOptions = LoadOptions()
    """How models are loaded; the device is that of the worker."""
    load_by_model: dict[str, LoadOptions] = {}
    """What `open_model` takes -> how that model is loaded instead."""
    features: Path | None = None
    """A folder that caches the text features of prompts."""
    reason: Literal["default", "off"] = "default"
    """default rewrites prompts into captions of the style that the model's folder states, unless a request says off;
    off never rewrites prompts."""

    max_batch: int = Field(8, ge=1)
    """Images of the same model, size, steps, guidance and LoRAs that are drawn together; 1 turns batching off."""
    max_queue: int = Field(256, ge=1)
    """Images that may wait in the queue."""
    switch_patience: float = Field(20.0, ge=0)
    """Seconds that a request for another model waits at most for requests for the open one."""
    idle_unload: float | None = Field(None, gt=0)
    """Seconds without work after which the model is unloaded; None keeps it."""
    prompt_cache: int = Field(256, ge=0)
    """MiB of text features that each worker caches."""
    memory_limit: float | None = Field(None, ge=0)
    """GB per device for drawing, in addition to the weights; None uses what is free, 0 turns the check off."""
    timeout: float = Field(600.0, gt=0)
    """Seconds from the arrival of a request to its last image."""

    max_prompt: int = Field(MAX_PROMPT_CHARACTERS, ge=1, le=MAX_PROMPT_CHARACTERS)
    """Characters of a prompt, and of a negative prompt."""
    max_pixels: int = Field(2080 * 1040, ge=256)
    """Pixels of one image; the default is the largest size that the released models are sampled at."""
    max_steps: int = Field(150, ge=1, le=1000)
    """Denoising steps of one image; the default is the limit of AUTOMATIC1111's clients."""
    max_count: int = Field(10, ge=1)
    """Images of one request."""
    max_upload: int = Field(20 << 20, ge=1024)
    """Bytes of one uploaded image."""
    max_body: int = Field(64 << 20, ge=1024)
    """Bytes of one request."""
    max_json: int = Field(1 << 20, ge=1024)
    """Bytes of one JSON request, at routes that take no image in it."""
    max_bodies: int = Field(512 << 20, ge=1024)
    """Bytes of all requests in progress together; requests beyond it get Retry-After."""
    max_connections: int = Field(512, ge=8)
    """Open connections; at most half of them from one address that is not a trusted proxy."""
    header_timeout: float = Field(15.0, gt=0)
    """Seconds until the head of a request has arrived."""
    body_timeout: float = Field(30.0, gt=0)
    """Seconds until its body has arrived, and one more for each 16 KiB of it."""
    max_upload_pixels: int = Field(32_000_000, ge=256)
    """Pixels of an uploaded image."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Drawing requests of one client; None sets no limit."""

    api_keys: tuple[str, ...] = ()
    """API keys. With any key or user set, every API requires one."""
    users: dict[str, str] = {}
    """Name -> password, for clients that speak HTTP Basic."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call this server from a browser; "*" for any."""
    loopback_only: bool = False
    """Answer only requests whose Host is localhost, as a defence against DNS rebinding by web pages."""
    public_url: str | None = None
    """Address that links to images begin with; without it, the one that the client used."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted."""
    alias_models: bool = True
    """Accept the model names built into clients of the hosted service (gpt-image-*, dall-e-*) for the default."""

    keep_days: float | None = Field(30.0, gt=0)
    """Days after which an image is removed; None keeps it."""
    keep_pictures: int | None = Field(10_000, ge=1)
    """Images kept, newest first; None keeps all."""
    tools: bool = True
    """Offer MCP tools at /mcp."""
    marking: bool = True
    """Mark images as made by a model (IPTC's Digital Source Type, in XMP); their metadata say which."""
    safety: Literal["off", "prompt", "picture", "all"] = "off"
    """Filters before drawing (prompt) and before delivery (picture); the metadata of images say so."""
    safety_words: Path | None = None
    """A word list instead of the embedded one."""
    safety_scorer: str = "opennsfw"
    """Scorer of images: opennsfw, or MODULE:NAME of your own."""
    safety_threshold: float = Field(0.5, ge=0, le=1)
    """An image with a lower safety score than this, 0 to 1, is held back."""

    @classmethod
    def checked(cls, **fields: object) -> "ServerSettings":
        """Validate settings.

        Raises:
            ValueError: one sentence that names the setting, its value and what is accepted.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["type"] == "value_error":
                raise ValueError(f"{name} {first['ctx']['error']}") from None
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise ValueError(f"{name} is not a known setting; known are {known}") from None
            raise ValueError(
                f"invalid {name} {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
            ) from None

    def load_options(self, source: str) -> LoadOptions:
        """How a model is loaded, by what `open_model` takes for it."""
        return self.load_by_model.get(source, self.load)

    @field_validator("models", "devices")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("is empty: expected at least one name")
        return value

    @field_validator("model_folders", "lora_folders")
    @classmethod
    def _folders(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for folder in value:
            if not folder.is_dir():
                raise ValueError(f"{folder} is not a folder")
        return tuple(folder.resolve() for folder in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ip_network(one, strict=False)
            except ValueError:
                raise ValueError(
                    f"holds {one[:60]!r}: expected an address or a network, such as 127.0.0.1 or 10.0.0.0/8"
                ) from None
        return value

    @field_validator("api_keys")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("holds an empty key")
        return value

    @property
    def shows_previews(self) -> bool:
        """Whether previews are shown: not where the safety filter judges finished images."""
        return self.safety in ("off", "prompt")

    @property
    def requires_auth(self) -> bool:
        """Whether clients must authenticate."""
        return bool(self.api_keys or self.users)
