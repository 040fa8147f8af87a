"""Drives the server's page in a real browser, by what a person sees and presses.

The browser is Debian's chromium (`apt-get install chromium`, or LEANLENS_CHROMIUM), headless and without its own
network requests. `docs/make_screenshots.py` drives the same page with it.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, sync_playwright

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)
PATIENCE = 40_000  # milliseconds that anything may take; a machine that tests is a busy one
_OVERFLOWING = """() => {
  const scrolls = (part) => part && (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(part).overflowX)
    || scrolls(part.parentElement));
  return [...document.querySelectorAll("body *")].filter((part) => {
    const box = part.getBoundingClientRect();
    return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5) && !scrolls(part.parentElement);
  }).map((part) => part.outerHTML.slice(0, 120));
}"""
_FAINT = """([selector, least]) => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colour) => colour.map((level) => level / 255)
    .map((level) => level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4)
    .reduce((sum, level, index) => sum + level * [0.2126, 0.7152, 0.0722][index], 0);
  return [...document.querySelectorAll(selector)].filter((part) => part.offsetWidth && part.innerText).map((part) => {
    const behind = [], opacity = [];
    for (let one = part; one; one = one.parentElement) {
      behind.unshift(getComputedStyle(one).backgroundColor);
      opacity.push(Number(getComputedStyle(one).opacity));
    }
    const ground = paint(["white", ...behind]);
    const share = opacity.reduce((product, one) => product * one, 1);
    const ink = paint(["white", ...behind, getComputedStyle(part).color])
      .map((level, index) => level * share + ground[index] * (1 - share));
    const [low, high] = [light(ink), light(ground)].sort((one, two) => one - two);
    return [(high + 0.05) / (low + 0.05), part.innerText.slice(0, 40)];
  }).filter(([contrast]) => contrast < least);
}"""
_DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, {type: "image/png"}));
  return carried;
}"""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser without a screen.

    Raises:
        FileNotFoundError: there is none.
    """
    found = os.environ.get("LEANLENS_CHROMIUM") or shutil.which("chromium")
    if found is None:
        raise FileNotFoundError("there is no chromium; apt-get install chromium, or name one in LEANLENS_CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Looking:
    """What can be measured of any page in a tab."""

    page: Any

    def overflowing(self) -> list[str]:
        """Parts that stick out of the window sideways, unless something around them scrolls or cuts them off."""
        if self.page.evaluate("document.documentElement.scrollWidth") > self.page.viewport_size["width"]:
            return self.page.evaluate(_OVERFLOWING) or ["the page"]
        return self.page.evaluate(_OVERFLOWING)

    def faint(self, selector: str, least: float = 4.5) -> list[tuple[float, str]]:
        """Texts whose contrast with what lies behind them is below `least` (WCAG 2.2, 1.4.3)."""
        return self.page.evaluate(_FAINT, [selector, least])


class ReportDriver(Looking):
    """One tab with the report of a comparison open, from its file and without a network.

    Args:
        browser: from `open_browser`.
        file: report.html.
        size, dark, scale: as `PageDriver` has them.
    """

    def __init__(
        self, browser: Browser, file: Path, size: tuple[int, int] = DESKTOP, dark: bool = False, scale: float = 1.0
    ):
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            device_scale_factor=scale,
            offline=True,
        )
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.elsewhere: list[str] = []
        """Everything that was asked for besides the file itself."""
        self.mistakes: list[str] = []
        """What the page's scripts, and the policy against loading, complained of."""
        own = file.resolve().as_uri()
        self.page.on("request", lambda one: self.elsewhere.append(one.url) if not _is_inside(one.url, own) else None)
        self.page.on("pageerror", lambda error: self.mistakes.append(str(error)))
        self.page.on("console", lambda said: self.mistakes.append(said.text) if said.type == "error" else None)
        self.page.goto(own)
        self.page.wait_for_selector("#nav a")

    def close(self) -> None:
        """Close the tab."""
        self.context.close()

    def text(self, selector: str) -> str:
        """What the first such part says, on one line."""
        return " ".join(self.page.locator(selector).first.inner_text().split())

    def scroll_to_images(self) -> None:
        """Bring the first prompts into the window, which fills them in."""
        self.page.locator("#list").evaluate("(list) => list.scrollIntoView()")
        self.page.locator("article figure").first.wait_for()

    def ids(self) -> list[str]:
        """The prompts that are shown, in their order."""
        return self.page.locator("article").evaluate_all("(all) => all.map((one) => one.dataset.id)")


def _is_inside(url: str, own: str) -> bool:
    return url.startswith("data:") or url.partition("#")[0] == own


class PageDriver(Looking):
    """One tab with the page open.

    Args:
        browser: from `open_browser`.
        url: of the server.
        size: width and height in CSS pixels.
        dark: whether the system asks for dark pages.
        scale: device pixels for each CSS pixel.
    """

    def __init__(
        self, browser: Browser, url: str, size: tuple[int, int] = DESKTOP, dark: bool = False, scale: float = 1.0
    ):
        self.url = url
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            device_scale_factor=scale,
            has_touch=size[0] < 600,
            accept_downloads=True,
        )
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.prompt = self.page.locator("#prompt textarea")
        self.elsewhere: list[str] = []
        """Addresses of other origins that the page has asked for."""
        self.mistakes: list[str] = []
        """What the page's scripts complained of."""
        self.page.on("request", self._note)
        self.page.on("pageerror", lambda error: self.mistakes.append(str(error)))
        self.page.on("console", lambda said: self.mistakes.append(said.text) if said.type == "error" else None)
        self.open()

    def _note(self, request: Any) -> None:
        if not request.url.startswith((f"{self.url}/", "data:", f"blob:{self.url}/")):
            self.elsewhere.append(request.url)

    def open(self) -> None:
        """Load the page, again if it was open; ready when its history has arrived."""
        before = len(self.mistakes)
        self.page.goto(f"{self.url}/")
        del self.mistakes[before:]  # what was asked for by the page that is left is broken off, which it complains of
        self.page.wait_for_selector("#history .leanlens")

    def close(self) -> None:
        """Close the tab."""
        self.context.close()

    # ---------------------------------------------------------------------------------------- asking

    def unfold(self, name: str) -> Locator:
        """Open one of the folded parts: advanced, source or grid."""
        part = self.page.locator(f"#{name}")
        if part.locator("> button").get_attribute("class").find("open") < 0:
            part.locator("> button").click()
        return part

    def field(self, label: str) -> Locator:
        """Where the field of that name is written into."""
        titles = self.page.locator("[data-testid='block-info']")
        title = titles.filter(has_text=re.compile(rf"^\s*{re.escape(label)}\s*$"))
        return title.locator("xpath=..").locator("input, textarea").first

    def fill(self, label: str, value: str) -> None:
        """Write into a field."""
        self.field(label).fill(value)
        self.field(label).blur()

    def value(self, label: str) -> str:
        """What a field says."""
        return self.field(label).input_value()

    def choose(self, label: str, value: str) -> None:
        """Choose in a list."""
        self.field(label).click()
        choices = self.page.locator(f"#{self.field(label).get_attribute('aria-controls')}")
        choices.get_by_role("option", name=value, exact=True).click()

    def draw(self, prompt: str) -> list[str]:
        """Draw, and give the names of the finished pictures."""
        self.prompt.fill(prompt)
        self.page.click("#draw")
        return self.finished()

    def finished(self, words: str = r"^(Done|\d+ of \d+ images done)$") -> list[str]:
        """Wait for what is said at the end of a drawing, or for other words; gives the names of the pictures there."""
        fresh = "#stage .leanlens:not([data-seen])"  # what was waited for before does not count again
        said = self.page.locator(f"{fresh} [role=status], {fresh} [role=alert]").filter(has_text=re.compile(words))
        said.wait_for()
        self.page.locator(fresh).evaluate("(part) => part.dataset.seen = 1")
        return self.pictures("#stage")

    def drawing(self) -> None:
        """Wait until a preview picture is shown."""
        self.page.wait_for_selector("#stage progress")
        self.page.wait_for_selector("#stage img[alt='preview']")

    def drop(self, file: Path) -> None:
        """Drop a picture where settings are recovered from one."""
        import base64

        data = base64.b64encode(file.read_bytes()).decode("ascii")
        carried = self.page.evaluate_handle(_DROP, [file.name, data])
        self.page.locator("#drop button[aria-label*='Drop']").dispatch_event("drop", {"dataTransfer": carried})

    def start_from(self, file: Path) -> Locator:
        """Give a picture to start from; gives the editor's canvas."""
        canvas = self.choose_source(file)
        self.page.locator("#source").get_by_label("Brush Size").wait_for()
        return canvas

    def choose_source(self, file: Path) -> Locator:
        """The same without waiting until the picture is there."""
        part = self.unfold("source")
        part.locator("input[type=file]").first.set_input_files(file)
        return part.locator("canvas").first

    @contextmanager
    def held_back(self, name: str) -> Iterator[None]:
        """Within this, a function of the window such as `fetch` does not answer."""
        self.page.evaluate(
            "(name) => { const before = window[name];"
            " const gate = new Promise((resolve) => { window.letThrough = resolve; });"
            " window[name] = async (...given) => { await gate; return before(...given); }; }",
            name,
        )
        yield
        self.page.evaluate("window.letThrough()")

    def paint(self, canvas: Locator, strokes: list[tuple[tuple[float, float], tuple[float, float]]]) -> None:
        """Brush straight lines; places are shares of the canvas's width and height."""
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box is not None
        for (x, y), (to_x, to_y) in strokes:
            self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            self.page.mouse.down()
            self.page.mouse.move(box["x"] + to_x * box["width"], box["y"] + to_y * box["height"], steps=8)
            self.page.mouse.up()

    # ---------------------------------------------------------------------------------------- looking

    def pictures(self, where: str) -> list[str]:
        """Names of the finished pictures in a part of the page, in their order."""
        sources = self.page.locator(f"{where} img[src^='pictures/']").evaluate_all(
            "(all) => all.map((one) => one.getAttribute('src'))"
        )
        return [source.removeprefix("pictures/") for source in sources]

    def said(self) -> str:
        """What stands where pictures are shown."""
        return self.page.locator("#stage").inner_text()

    def is_dark(self) -> bool:
        """Whether the page is in dark colours."""
        return bool(self.page.evaluate("document.body.classList.contains('dark')"))

    def focused(self) -> str:
        """The name of what the keyboard acts on."""
        return self.page.evaluate(
            "() => { const on = document.activeElement; const label = on.closest('label, fieldset, .block');"
            "return on.id || on.getAttribute('aria-label') || on.innerText || (label ? label.innerText : '') }"
        ).split("\n")[0]
