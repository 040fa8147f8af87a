"""How the page looks: its colours, its style sheet and the few lines of script it needs.

Comes in: nothing. Goes out: a Gradio theme and texts. Nothing here is loaded from elsewhere: fonts are the system's and
shapes are drawn by the style sheet. Knows nothing of what the page does.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leanlens.web.form import ASPECTS, OWN
from leanlens.web.reasoning import READING_STYLE

THEME_KEY = "leanlens-theme"
ON_LOAD = f"""() => {{
  const chosen = localStorage.getItem("{THEME_KEY}");
  if (chosen) document.body.classList.toggle("dark", chosen === "dark");
}}"""
TOGGLE = f"""() => {{
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem("{THEME_KEY}", dark ? "dark" : "light");
}}"""
ONE_STOP = """() => {
  const aspect = document.querySelector("#aspect");
  const name = () => aspect.querySelectorAll("input:not([name=aspect])").forEach((choice) => choice.name = "aspect");
  new MutationObserver(name).observe(aspect, {subtree: true, childList: true, attributeFilter: ["name"]});
  name();
}"""
"""Makes the aspects one stop of the Tab key, through which the arrow keys go; Gradio names each choice differently."""
PRESSED = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-name]");
  if (!button || (button.dataset.confirm && !confirm(button.dataset.confirm))) return;
  trigger("click", {name: button.dataset.name});
});
"""
"""Tells the server the `data-name` of a button that is pressed inside a piece of HTML, once a question is answered."""
FORM_KEY = "leanlens-form"
TELL = """(...values) => {
  window.leanlensForm = values;
  document.dispatchEvent(new CustomEvent("leanlens-form", {detail: values}));
}"""
"""Tells the page's other scripts what the form says."""
REASON_KEY = "leanlens-reason"


def remember(reason: int) -> str:
    """The script that keeps the form's fields in the browser, and tells the page's other scripts of them.

    Args:
        reason: the place of the switch for rewriting, which is kept by itself, too.
    """
    return f"""(...values) => {{
  try {{
    localStorage.setItem("{FORM_KEY}", JSON.stringify(values));
    localStorage.setItem("{REASON_KEY}", values[{reason}] ? "on" : "off");
  }} catch {{ /* it is full, or switched off */ }}
  ({TELL})(...values);
}}"""


WAITING = (Path(__file__).parent / "waiting.js").read_text(encoding="utf-8")
"""Holds a press on Draw until what it depends on has arrived; the scripts below tell it what does."""
BEGIN = """(...values) => { window.leanlensWaiting.begin("form"); return values; }"""
END = """() => { window.leanlensWaiting.end("form"); window.leanlensWaiting.end("settings"); }"""
SOURCE_ADDED = "() => window.leanlensWaiting.sourceChanged(true)"
SOURCE_CLEARED = "() => window.leanlensWaiting.sourceChanged(false)"


def press(fields: int) -> str:
    """What is drawn is what is shown: the script that completes the arguments of a drawing, whose last are `fields`."""
    return f"(...values) => window.leanlensWaiting.press({fields}, values)"


def restore(models: Sequence[str], model: int, reason: int) -> str:
    """The script that gives the fields back after a reload, unless their model is not offered any more.

    Args:
        models: those that are offered.
        model, reason: the places of the model's name and of the switch for rewriting. Turned off, it stays off.
    """
    return f"""(...values) => {{
  let kept = null, isOff = false;
  try {{
    kept = JSON.parse(localStorage.getItem("{FORM_KEY}"));
    isOff = localStorage.getItem("{REASON_KEY}") === "off";
  }} catch {{ /* nothing was kept */ }}
  if (kept?.length === values.length && {json.dumps(list(models))}.includes(kept[{model}])) values = kept;
  if (isOff) values[{reason}] = false;
  return values;
}}"""


_SHAPE = 15.0  # side of the square that a shape of the aspect picker has the area of, pixels

_PAGE = """
.gradio-container > .main { max-width: 100rem; margin: 0 auto }
#head { align-items: center; flex-wrap: nowrap }
#head h1 { margin: 0; font-size: 1.35rem; font-weight: 650; letter-spacing: -.01em; line-height: 1.2 }
#head h1 small { font-size: .85rem; font-weight: 400; letter-spacing: 0; opacity: .7; margin-left: .5rem }
#theme { flex: none; min-width: 0; width: auto; padding-inline: .9rem }
#estimate:not(:has(p)) { display: none }
#kept-head { align-items: center; flex-wrap: nowrap }
#favourites { flex: none; width: auto; min-width: 0 }
:is(#estimate, #better) p { font-size: .8rem; opacity: .75; margin: 0 }
#stop { flex-grow: 1 }
#draw { flex-grow: 3 }
#prompt textarea { font-size: 1rem; line-height: 1.45 }
#kept h3 { margin: 0 }
:is(#head, #stage, #history, #estimate, #better) .html-container { padding: 0 }
:is(#stage, #history) { overflow: visible }
.dark #source .image-container:has(> .empty) .pixi-target canvas { opacity: .06 }
.dark #source .empty { color: var(--body-text-color-subdued) }
footer { display: none !important }
@media (max-width: 760px) {
  #columns { flex-direction: column; flex-wrap: nowrap }
  #asked, #seen { display: contents }
  #first { order: 1 }
  #stage { order: 2 }
  #settings { order: 3 }
  #kept { order: 4 }
  #head h1 small { display: none }
  .leanlens .welcome { min-height: 0; padding: 1.25rem .75rem }
}
"""

_PICTURES = """
.leanlens-pictures { display: grid; gap: .75rem }
.leanlens-pictures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 13rem), 1fr)) }
.leanlens-pictures.one { grid-template-columns: minmax(0, 1fr) }
.leanlens-pictures.kept { grid-template-columns: repeat(auto-fill, minmax(min(45%, 9rem), 1fr)) }
.leanlens p { margin: 0 0 .5rem }
.leanlens figure { margin: 0 }
.leanlens figure > a { display: block; padding: 0 }
.leanlens img { display: block; width: 100%; height: auto; border-radius: 8px; margin: 0 }
.leanlens .one :is(img, .empty) { margin-inline: auto }
.leanlens .one figcaption { text-align: center }
.leanlens .one :is(img, .empty) { width: min(100%, calc(72vh * var(--ratio, 1)), max(24rem, 3px * var(--wide, 1024))) }
.leanlens .kept img { aspect-ratio: 1; object-fit: cover }
.leanlens figcaption { font-size: .8rem; line-height: 1.4; margin-top: .35rem; overflow-wrap: anywhere; opacity: .8 }
.leanlens figcaption .said { display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.leanlens figcaption a { padding: 0; text-decoration: underline; text-underline-offset: 2px; color: inherit }
.leanlens button { font: inherit; font-size: .8rem; cursor: pointer; border-radius: 6px; padding: .3rem .6rem }
.leanlens button { margin: 0; background: none; color: inherit; border: 1px solid var(--border-color-primary) }
.leanlens button:hover { border-color: var(--color-accent) }
.leanlens .does { display: flex; gap: .3rem; margin-top: .3rem }
.leanlens .does button { padding: .3rem .45rem }
.leanlens .does button:first-child { flex: 1 }
.leanlens-queue { font-size: .8rem; margin-top: .75rem; opacity: .8 }
.leanlens-queue p { margin: 0 }
.leanlens-queue ol { margin: 0; padding-left: 1.2rem; list-style: decimal }
.leanlens :is(a, button):focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px }
.leanlens progress { appearance: none; display: block; width: 100%; height: .375rem; margin: 0 0 .5rem; border: 0 }
.leanlens progress { border-radius: 99px; overflow: hidden; background: var(--border-color-primary) }
.leanlens progress::-webkit-progress-bar { background: none }
.leanlens progress::-webkit-progress-value { background: var(--color-accent); border-radius: 99px }
.leanlens progress::-webkit-progress-value { transition: width .2s }
.leanlens progress::-moz-progress-bar { background: var(--color-accent); border-radius: 99px }
.leanlens .empty { aspect-ratio: 1; border: 1px dashed currentColor; border-radius: 8px; opacity: .3 }
.leanlens .welcome { display: grid; align-content: center; justify-items: center; gap: .75rem; text-align: center }
.leanlens .welcome { border: 1px dashed var(--border-color-primary); border-radius: 8px; padding: 2rem 1rem }
.leanlens .welcome { min-height: min(26rem, 55vh) }
.leanlens .welcome p { margin: 0 }
.leanlens .welcome div { display: flex; flex-wrap: wrap; justify-content: center; align-items: center; gap: .5rem }
.leanlens .wrong { border-left: 4px solid #c0392b; padding: .4rem .6rem }
#waiting:not(:has(p:not(:empty))) { display: none }
#waiting p { font-size: .85rem; margin: 0 }
[aria-busy=true] { opacity: .6; cursor: progress }
.leanlens .wide { overflow-x: auto }
.leanlens table { border-collapse: collapse; margin: 0; width: auto }
.leanlens table, .leanlens tr, .leanlens td, .leanlens th { border: 0; background: none }
.leanlens th { font-weight: 600; font-size: .8rem; text-align: left; padding: .2rem .4rem; max-width: 14rem }
.leanlens td { padding: .2rem; min-width: 7rem; width: 14rem; max-width: 20rem; vertical-align: top }
.leanlens thead td { min-width: 0; width: auto }
"""

_ASPECT = """
#aspect label { padding: .35rem .6rem; gap: .45rem; align-items: center }
#aspect input[type="radio"] { appearance: none; flex: none; margin: 0; border-radius: 3px; box-shadow: none }
#aspect input[type="radio"] { border: 1.5px solid var(--body-text-color); background: none !important; opacity: .6 }
#aspect input[type="radio"]:checked { background: var(--color-accent) !important; opacity: 1 }
#aspect input[type="radio"]:checked { border-color: var(--color-accent) }
#aspect label:focus-within { outline: 2px solid var(--color-accent); outline-offset: 1px }
"""


def style_sheet() -> str:
    """The page's own CSS, with a little rectangle for each aspect in place of a radio button's dot."""
    return _PAGE + _PICTURES + READING_STYLE + _ASPECT + "\n".join(_shape(aspect) for aspect in ASPECTS) + "\n"


def theme() -> Any:
    """Gradio's plain theme in one quiet colour whose white text and whose captions can be read."""
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
    """The rule that draws one aspect."""
    width, height = (1, 1) if aspect == OWN else (int(side) for side in aspect.split(":"))
    across = _SHAPE * math.sqrt(width / height)
    sides = f"width: {across:.1f}px; height: {_SHAPE * _SHAPE / across:.1f}px"
    dashed = "; border-style: dashed" if aspect == OWN else ""
    return f'#aspect input[type="radio"][value="{aspect}"] {{ {sides}{dashed} }}'
