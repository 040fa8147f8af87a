"""Everything an operator can set, with the defaults of `leanlens serve`.

Comes in: fields by name. Goes out: `ServerSettings`, checked. Knows nothing of models or of HTTP.
"""

from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from leanlens.pipeline.request import MAX_PROMPT_CHARACTERS
from leanlens.plan.options import LoadOptions


class ServerSettings(BaseModel):
    """What a server may do. `ServerSettings.checked(...)` turns whatever is wrong into a one-sentence `ValueError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = ("nano",)
    """Models that may be asked for, by name or path; the first is the default and is opened at the start."""
    model_folders: tuple[Path, ...] = ()
    """Folders whose model folders and weight files may be asked for by their names."""
    lora_folders: tuple[Path, ...] = ()
    """Folders whose LoRA files may be asked for by their names."""
    output: Path = Path("leanlens-pictures")
    """Where pictures, uploads and the index of jobs are kept."""

    devices: tuple[str, ...] = ("auto",)
    """One worker for each: auto, cpu, cuda:0 and so on."""
    load: LoadOptions = LoadOptions()
    """How models are loaded; the device is that of the worker."""
    load_by_model: dict[str, LoadOptions] = {}
    """What `open_model` takes -> how that model is loaded instead."""
    features: Path | None = None
    """A folder that keeps the text features of prompts."""
    reason: Literal["default", "off"] = "default"
    """default rewrites prompts into the captions that a model learnt, where its folder states their style, unless a
    request says off; off draws all prompts as they are, whatever a request says."""

    max_batch: int = Field(8, ge=1)
    """Pictures of the same model, size, steps, guidance and LoRAs that are drawn together; 1 turns batching off."""
    max_queue: int = Field(256, ge=1)
    """Pictures that may wait."""
    switch_patience: float = Field(20.0, ge=0)
    """Seconds that a request for another model waits at most for those that want the opened one."""
    idle_unload: float | None = Field(None, gt=0)
    """Seconds without work after which the model is let go; None keeps it."""
    prompt_cache: int = Field(256, ge=0)
    """Mebibytes of text features that each worker keeps."""
    memory_limit: float | None = Field(None, ge=0)
    """Gigabytes that drawing may take of each device beside the weights; None takes what is free, 0 asks for nothing
    and lets memory run out."""
    timeout: float = Field(600.0, gt=0)
    """Seconds from the arrival of a request to its last picture."""

    max_prompt: int = Field(MAX_PROMPT_CHARACTERS, ge=1, le=MAX_PROMPT_CHARACTERS)
    """Characters of a prompt, and of a negative prompt."""
    max_pixels: int = Field(2080 * 1040, ge=256)
    """Of one drawn picture; the default is the largest size the released models are sampled at."""
    max_steps: int = Field(150, ge=1, le=1000)
    """Of one picture; the default is as far as AUTOMATIC1111's clients go."""
    max_count: int = Field(10, ge=1)
    """Pictures of one request."""
    max_upload: int = Field(20 << 20, ge=1024)
    """Bytes of one uploaded picture."""
    max_body: int = Field(64 << 20, ge=1024)
    """Bytes of one request."""
    max_json: int = Field(1 << 20, ge=1024)
    """Bytes of one request in JSON, at routes that take no picture in it."""
    max_bodies: int = Field(512 << 20, ge=1024)
    """Bytes of all requests together that are being answered; who would pass it is told to come again."""
    max_connections: int = Field(512, ge=8)
    """Open connections, half of them from one address that is no trusted proxy."""
    header_timeout: float = Field(15.0, gt=0)
    """Seconds until the head of a request has arrived."""
    body_timeout: float = Field(30.0, gt=0)
    """Seconds until its body has arrived, and one more for each 16 KiB of it."""
    max_upload_pixels: int = Field(32_000_000, ge=256)
    """Of an uploaded picture when it is unpacked."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Drawing requests of one client; None sets no limit."""

    api_keys: tuple[str, ...] = ()
    """Keys; with any key or user set, every API asks for one."""
    users: dict[str, str] = {}
    """Name -> password, for clients that speak HTTP Basic."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may call this server from a browser; "*" for any."""
    loopback_only: bool = False
    """Answer only where the client calls this server localhost, so that no web page can by giving its own name
    another address."""
    public_url: str | None = None
    """Address that links to pictures begin with; without it, the one the client used."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses, or networks, of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    alias_models: bool = True
    """Answer for the names that clients of the hosted service have built in (gpt-image-*, dall-e-*)."""

    keep_days: float | None = Field(30.0, gt=0)
    """Age at which a picture is removed; None keeps it."""
    keep_pictures: int | None = Field(10_000, ge=1)
    """Pictures kept, the newest; None keeps all."""
    tools: bool = True
    """Offer tools to assistants at /mcp."""
    marking: bool = True
    """Mark pictures as made by a model (IPTC's Digital Source Type, in XMP); their metadata say which."""
    safety: Literal["off", "prompt", "picture", "all"] = "off"
    """Which filters stand before drawing (prompt) and before handing over (picture); pictures' metadata say so."""
    safety_words: Path | None = None
    """A word list instead of the one in the package."""
    safety_scorer: str = "opennsfw"
    """What judges pictures: opennsfw, or MODULE:NAME of a scorer of your own."""
    safety_threshold: float = Field(0.5, ge=0, le=1)
    """A picture that is judged less safe than this, from 0 to 1, is held back."""

    @classmethod
    def checked(cls, **fields: object) -> "ServerSettings":
        """Build one.

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
            raise ValueError(f"{name} {first['input']!r} is not accepted: {first['msg']}") from None

    def load_options(self, source: str) -> LoadOptions:
        """How a model is loaded, by what `open_model` takes for it."""
        return self.load_by_model.get(source, self.load)

    @field_validator("models", "devices")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("is empty; give at least one name")
        return value

    @field_validator("model_folders", "lora_folders")
    @classmethod
    def _folders(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        for folder in value:
            if not folder.is_dir():
                raise ValueError(f"{folder} is not a folder; give one that exists")
        return tuple(folder.resolve() for folder in value)

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ip_network(one, strict=False)
            except ValueError:
                raise ValueError(
                    f"{one[:60]!r} is not accepted; give an address or a network, such as 127.0.0.1 or 10.0.0.0/8"
                ) from None
        return value

    @field_validator("api_keys")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError("holds an empty key; give keys of at least one character")
        return value

    @property
    def shows_previews(self) -> bool:
        """Whether half-drawn pictures are shown: not where finished ones are judged first."""
        return self.safety in ("off", "prompt")

    @property
    def requires_auth(self) -> bool:
        """Whether clients have to say who they are."""
        return bool(self.api_keys or self.users)
