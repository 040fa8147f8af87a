"""Defines the drawn shapes as SVG: containers that have a thing inside, and supports that a thing stands on.

Each has one main colour, so that it can be recoloured.
"""

from leanlens.scenes.names import Concept
from leanlens.scenes.sources import wrap_svg

PAINT, SHADE, DARK = "#d03a3a", "#a82c2c", "#8c2020"

# name -> (SVG body on a 100 x 100 page, side of the square that fits inside in parts of the width)
CONTAINERS = {
    "circle": (f'<circle cx="50" cy="50" r="50" fill="{PAINT}"/>', 0.64),
    "square": (f'<path d="M0 0h100v100H0z" fill="{PAINT}"/>', 0.8),
    "rounded square": (f'<rect width="100" height="100" rx="24" fill="{PAINT}"/>', 0.76),
    "hexagon": (f'<path d="M25 7h50l25 43-25 43H25L0 50z" fill="{PAINT}"/>', 0.62),
    "diamond": (f'<path d="M50 0l50 50-50 50L0 50z" fill="{PAINT}"/>', 0.47),
    "octagon": (f'<path d="M29 0h42l29 29v42l-29 29H29L0 71V29z" fill="{PAINT}"/>', 0.7),
}

# name -> (SVG body on a page of 100 wide, height of the page)
SUPPORTS = {
    "table": (
        f'<path d="M8 8h9v42H8zM83 8h9v42h-9z" fill="{SHADE}"/><rect width="100" height="10" rx="2" fill="{PAINT}"/>',
        50,
    ),
    "stool": (
        f'<path d="M18 10h10L16 80H6zM72 10h10l12 70H84z" fill="{SHADE}"/><path d="M18 44h64v7H18z" fill="{DARK}"/>'
        f'<rect width="100" height="14" rx="6" fill="{PAINT}"/>',
        80,
    ),
    "shelf": (
        f'<path d="M14 8h8v14l-8 6zM78 8h8v20l-8-6z" fill="{DARK}"/><path d="M0 0h100v10H0z" fill="{PAINT}"/>',
        28,
    ),
    "crate": (
        f'<path d="M0 0h100v62H0z" fill="{SHADE}"/>'
        f'<path d="M0 0h100v12H0zM5 16h90v12H5zM5 32h90v12H5zM5 48h90v12H5z" fill="{PAINT}"/>',
        62,
    ),
    "pedestal": (
        f'<path d="M18 12h64v66H18z" fill="{SHADE}"/><path d="M8 10h84v8H8zM6 76h88v14H6z" fill="{DARK}"/>'
        f'<path d="M0 0h100v12H0z" fill="{PAINT}"/>',
        90,
    ),
}


def draw_shapes() -> tuple[list[Concept], dict[str, str | bytes]]:
    """The concepts of category "shape" and "support", and name -> SVG document."""
    concepts = [Concept(name, "shape", f"{name}s") for name in CONTAINERS]
    concepts += [Concept(name, "support", "shelves" if name == "shelf" else f"{name}s") for name in SUPPORTS]
    documents: dict[str, str | bytes] = {name: wrap_svg(body, "0 0 100 100") for name, (body, _) in CONTAINERS.items()}
    documents |= {name: wrap_svg(body, f"0 0 100 {height}") for name, (body, height) in SUPPORTS.items()}
    return concepts, documents
