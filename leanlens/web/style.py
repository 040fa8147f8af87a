"""Makes Gradio's theme and the page's style sheet. Fonts are the system's; nothing is loaded from elsewhere."""

import math
from pathlib import Path
from typing import Any

from leanlens.web.form import ASPECTS, OWN

_HERE = Path(__file__).parent
_SHAPE = 15.0  # side of the square with the area of each rectangle in the aspect picker, pixels


def style_sheet() -> str:
    """The page's CSS, with a small rectangle for each aspect instead of the dot of its radio button."""
    sheets = [(_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "reading.css")]
    return "\n".join([*sheets, *(_shape(aspect) for aspect in ASPECTS), ""])


def theme() -> Any:
    """Gradio's plain theme in one quiet colour, with readable white text and captions."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue="teal", secondary_hue="teal", neutral_hue="zinc", radius_size="lg",
        font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"),
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        color_accent="*primary_600",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_background_fill_selected_dark="*primary_900",
        checkbox_label_border_color_selected="*primary_600",
    )  # fmt: skip


def _shape(aspect: str) -> str:
    """The CSS rule of the rectangle of one aspect."""
    width, height = (1, 1) if aspect == OWN else (int(side) for side in aspect.split(":"))
    across = _SHAPE * math.sqrt(width / height)
    sides = f"width: {across:.1f}px; height: {_SHAPE * _SHAPE / across:.1f}px"
    dashed = "; border-style: dashed" if aspect == OWN else ""
    return f'#aspect input[type="radio"][value="{aspect}"] {{ {sides}{dashed} }}'
