"""The far end of a `ReplicaEngine`: a local engine on the device that Ray has given this process."""

import asyncio
import os
import platform
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from leanlens.pipeline.draw import DrawnPicture
from leanlens.pipeline.request import ImageRequest
from leanlens.plan.free_memory import FreeMemory
from leanlens.plan.memory import ModelSizes
from leanlens.serve.engine import Drawn, LocalEngine, OnStep, first_line, is_out_of_memory
from leanlens.serve.errors import APIError
from leanlens.serve.preview import Preview
from leanlens.serve.settings import ServerSettings

Result = tuple[str, Any]
"""How a call ended, and its value or what is known of the failure: picklable, whatever the error was."""


class Replica:
    """A local engine whose calls come from another process.

    Args:
        settings: the server's.
        device: cpu or cuda.
    """

    def __init__(self, settings: ServerSettings, device: str):
        self._known: dict[str, tuple[str, ModelSizes | None]] = {}
        self._engine = LocalEngine(device, settings, self)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="leanlens-draw")
        self._stopped = threading.Event()
        self._ending = threading.Event()

    def source(self, model: str) -> str:
        """What `open_model` takes, as the server last sent it."""
        return self._known[model][0]

    def sizes(self, model: str) -> ModelSizes | None:
        """The sizes of the model, as the server last sent them."""
        return self._known[model][1]

    async def where(self) -> str:
        """Process and machine, for the log."""
        return f"process {os.getpid()} of {platform.node()}"

    async def open(self, model: str, source: str, sizes: ModelSizes | None) -> Result:
        """See `LocalEngine.open`; the result is packed."""
        self._known[model] = (source, sizes)
        return await self._in_thread(lambda: pack_result(lambda: self._engine.open(model)))

    async def draw(
        self, model: str, source: str, sizes: ModelSizes | None, requests: list[ImageRequest], files: dict[str, bytes]
    ) -> AsyncIterator[Result]:
        """See `LocalEngine.draw`: a ("step", (number, previews)) after each step, then the packed result."""
        self._known[model] = (source, sizes)
        self._stopped.clear()
        self._ending.clear()
        loop, messages = asyncio.get_running_loop(), asyncio.Queue[Result]()

        def tell(kind: str, value: Any) -> None:
            loop.call_soon_threadsafe(messages.put_nowait, (kind, value))

        def on_step(step: int, previews: Sequence[Preview | None]) -> bool:
            if self._stopped.is_set():
                raise APIError("cancelled", "the drawing was stopped")
            tell("step", (step, [None if preview is None else preview.to_image() for preview in previews]))
            return self._ending.is_set()

        drawing = self._in_thread(lambda: tell(*pack_result(lambda: self._draw(model, requests, files, on_step))))
        try:
            while True:
                kind, value = await messages.get()
                yield kind, value
                if kind != "step":
                    return
        finally:  # the drawing has ended, or the server is gone
            self._stopped.set()
            await drawing

    def _draw(self, model: str, requests: list[ImageRequest], files: dict[str, bytes], on_step: OnStep) -> list[Drawn]:
        """Draw from copies of the uploads; the records name the files of the server."""
        with TemporaryDirectory(prefix="leanlens-inputs-") as folder:
            copies = {}
            for index, (path, data) in enumerate(files.items()):
                copies[path] = str(Path(folder) / f"{index}{Path(path).suffix}")
                Path(copies[path]).write_bytes(data)
            here = [
                one.model_copy(update={part: copies.get(getattr(one, part)) for part in ("image", "mask")})
                for one in requests
            ]
            found = self._engine.draw(model, here, on_step)
        return [
            Drawn(
                DrawnPicture(one.picture.image, {**one.picture.record, "request": request.model_dump(mode="json")}),
                one.text_tokens,
            )
            for one, request in zip(found, requests, strict=True)
        ]

    async def stop(self) -> None:
        """Cancel the drawing after the current step."""
        self._stopped.set()

    async def end_early(self) -> None:
        """End the drawing after the current step, with the images as predicted then."""
        self._ending.set()

    async def free_memory(self) -> FreeMemory | None:
        """See `LocalEngine.free_memory`."""
        return self._engine.free_memory()

    async def unload(self) -> None:
        """See `LocalEngine.unload`."""
        await self._in_thread(self._engine.unload)

    async def clear_caches(self) -> None:
        """See `LocalEngine.clear_caches`."""
        await self._in_thread(self._engine.clear_caches)

    def _in_thread(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


def pack_result(work: Callable[[], Any]) -> Result:
    """What `work` returns, or how it failed."""
    try:
        return "done", work()
    except APIError as error:
        return "refused", (error.kind, error.message, error.field)
    except Exception as error:
        if is_out_of_memory(error):
            return "memory", first_line(error)
        if isinstance(error, ValueError | FloatingPointError):
            return "invalid", str(error)
        return "failed", traceback.format_exc()


def unpack_result(answer: Result) -> Any:
    """The other end of `pack_result`."""
    kind, value = answer
    if kind == "done":
        return value
    if kind == "refused":
        raise APIError(*value)
    raise {"memory": MemoryError, "invalid": ValueError}.get(kind, RuntimeError)(value)
