"""As much of ComfyUI as its V3 schema promises to a node pack: enough to load one, read its schema and run its nodes.

It puts the modules `comfy`, `comfy_api.latest` and `folder_paths` into `sys.modules` while it is in use. It is
written from the published schema, not from ComfyUI's code.
"""

import asyncio
import importlib.util
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PACK = Path(__file__).parents[3] / "integrations" / "comfyui"
KINDS = ("Int", "Float", "String", "Boolean", "Combo", "Image", "Mask")
COMMON = {"display_name", "optional", "tooltip", "lazy", "extra_dict"}
WIDGET = COMMON | {"default", "socketless", "force_input"}
# The keyword arguments of each kind of input.
ACCEPTED = {
    "Int": WIDGET | {"min", "max", "step", "control_after_generate", "display_mode"},
    "Float": WIDGET | {"min", "max", "step", "round", "display_mode"},
    "String": WIDGET | {"multiline", "placeholder", "dynamic_prompts"},
    "Boolean": WIDGET | {"label_on", "label_off"},
    "Combo": WIDGET | {"options", "control_after_generate", "upload", "image_folder", "remote"},
}


class Interrupted(Exception):
    """What ComfyUI raises in a node when the user presses stop."""


def kind(name: str) -> type:
    """A ComfyUI type: its Input and Output keep what they are given and refuse what the schema does not know."""

    class Socket:
        io_type = name

        def __init__(self, id: str, **given: Any):
            unknown = set(given) - ACCEPTED.get(name, COMMON) - {"display_name", "tooltip"}
            assert not unknown, f"{name} {id} has no {unknown}"
            self.id, self.given = id, given
            self.optional = given.get("optional", False)

    return type(name, (), {"Input": type("Input", (Socket,), {}), "Output": type("Output", (Socket,), {})})


class Schema:
    """A node's schema; ids are unique over inputs and outputs, as ComfyUI demands."""

    def __init__(self, node_id, display_name=None, category="sd", inputs=(), outputs=(), hidden=(), description="",
                 is_output_node=False, not_idempotent=False):  # fmt: skip
        ids = [one.id for one in (*inputs, *outputs)]
        assert len(set(ids)) == len(ids), f"{node_id}: ids are not unique: {ids}"
        self.node_id, self.display_name, self.category = node_id, display_name, category
        self.inputs, self.outputs, self.hidden = list(inputs), list(outputs), list(hidden)
        self.description, self.is_output_node = description, is_output_node


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None):
        self.args, self.ui = args, ui


class ComfyNode:
    hidden = SimpleNamespace(prompt=None, extra_pnginfo=None)


class ComfyExtension:
    async def on_load(self) -> None: ...


class Comfy:
    """ComfyUI with its folders under `root`; `interrupt` presses stop, `seen` is what the bar was shown."""

    def __init__(self, root: Path):
        self.root, self.seen, self.freed = root, [], 0
        self.interrupt_after: int | None = None
        for folder in ("input", "output", "loras", "diffusion_models"):
            (root / folder).mkdir()

    def modules(self) -> dict[str, ModuleType]:
        """Name -> module."""
        enums = {
            "UploadType": Enum("UploadType", {"image": "image_upload"}),
            "FolderType": Enum("FolderType", {"output": "output"}),
            "Hidden": Enum("Hidden", {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}),
        }
        io = SimpleNamespace(
            **{name: kind(name) for name in KINDS}, **enums, Custom=kind, Schema=Schema, NodeOutput=NodeOutput,
            ComfyNode=ComfyNode,
        )  # fmt: skip

        def saved(filename, subfolder, type):
            return {"filename": filename, "subfolder": subfolder, "type": type.value}

        ui = SimpleNamespace(SavedResult=saved, PreviewText=str)
        made = {
            "comfy_api": _module("comfy_api"),
            "comfy_api.latest": _module("comfy_api.latest", io=io, ui=ui, ComfyExtension=ComfyExtension),
            "comfy": _module("comfy"),
            "comfy.utils": _module("comfy.utils", ProgressBar=self._bar),
            "comfy.model_management": _module(
                "comfy.model_management",
                throw_exception_if_processing_interrupted=self._throw,
                get_torch_device=lambda: "cpu",
                unload_all_models=self._free,
                soft_empty_cache=lambda: None,
            ),
            "folder_paths": _module(
                "folder_paths",
                get_filename_list=lambda folder: sorted(path.name for path in (self.root / folder).iterdir()),
                get_full_path=self._full_path,
                get_full_path_or_raise=lambda folder, name: str(self.root / folder / name),
                get_input_directory=lambda: str(self.root / "input"),
                get_output_directory=lambda: str(self.root / "output"),
                get_annotated_filepath=lambda name: str(self.root / "input" / name),
                exists_annotated_filepath=lambda name: (self.root / "input" / name).exists(),
                filter_files_content_types=lambda names, kinds: [name for name in names if name.endswith(".png")],
                get_save_image_path=lambda prefix, folder, width, height: (folder, prefix, 1, "", prefix),
            ),
        }
        made["comfy"].utils, made["comfy"].model_management = made["comfy.utils"], made["comfy.model_management"]
        return made

    def load(self) -> dict[str, type]:
        """Load the pack as ComfyUI does, under a name made from its path: node id -> class."""
        name = str(PACK).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(
            name, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)

        async def nodes() -> list[type]:
            return await (await module.comfy_entrypoint()).get_node_list()

        return {node.define_schema().node_id: node for node in asyncio.run(nodes())}

    def _bar(self, total: int) -> Any:
        return SimpleNamespace(update_absolute=lambda value, total, preview=None: self.seen.append((value, preview)))

    def _throw(self) -> None:
        if self.interrupt_after is not None and len(self.seen) >= self.interrupt_after:
            raise Interrupted

    def _free(self) -> None:
        self.freed += 1

    def _full_path(self, folder: str, name: str) -> str | None:
        path = self.root / folder / name
        return str(path) if path.is_file() else None


def _module(name: str, **content: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    return module


def call(node: type, **inputs: Any) -> tuple:
    """Run a node as ComfyUI does: every input by the id its schema gives, defaults where a graph says nothing."""
    schema = node.define_schema()
    known = {one.id: one for one in schema.inputs}
    assert set(inputs) <= set(known), set(inputs) - set(known)
    given = {name: one.given["default"] for name, one in known.items() if "default" in one.given} | inputs
    missing = {name for name, one in known.items() if not one.optional} - set(given)
    assert not missing, f"{schema.node_id} misses {missing}"
    output = node.execute(**given)
    assert len(output.args) == len(schema.outputs)
    return output.args if output.ui is None else (output.ui,)
