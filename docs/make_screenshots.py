"""Take the pictures of pages that the docs show: docs/images/page-*.webp, evaluate_report.png, evaluate_vote.png.

    python docs/make_screenshots.py [MODEL]
    python docs/make_screenshots.py --report OUT
    python docs/make_screenshots.py --vote OUT

The first starts a server of MODEL (nano without it) in an empty folder and drives its page in headless Chromium, with
the same driver as `tests/browser`. Seeds are fixed, so that the same model gives the same pictures. The second opens
the report of an evaluation, such as

    leanlens evaluate scenes --model nano --model nano-4=nano,steps=4 --model nano-4-unguided=nano,steps=4,cfg=1 \\
        --num 60 --seed 2026 --sources common --out OUT

The third opens the voting page on a copy of it, so that no vote is stored there. Needs Debian's chromium.
"""

import io
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from leanlens.files import whole_file  # noqa: E402
from tests.browser.driver import PHONE, PageDriver, ReportDriver, open_browser  # noqa: E402
from tests.browser.vote_driver import VoteDriver  # noqa: E402
from tests.contract.running import Running  # noqa: E402
from tests.evaluate.vote.running import Running as RunningVote  # noqa: E402

FOLDER = ROOT / "docs" / "images"
PROMPTS = (
    "a penguin",
    "a blue car on a pale pink background",
    "a yellow duck above two stars",
    "three red apples left of a blue teapot",
)
MOST = 200_000  # bytes of one picture
MOST_OF_REPORT = 400_000
MOST_OF_VOTE = 300_000
VOTED = 4  # pairs before the one that is shown


def main() -> None:
    if sys.argv[1:2] == ["--report"]:
        with open_browser() as browser:
            take_report(browser, Path(sys.argv[2]) / "report.html")
        return
    if sys.argv[1:2] == ["--vote"]:
        with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
            take_vote(browser, Path(sys.argv[2]), Path(folder) / "out")
        return
    model = sys.argv[1] if len(sys.argv) > 1 else "nano"
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        running = Running(Path(folder) / "out", model=model)
        try:
            running.wait()
            take_all(browser, running.url)
        finally:
            running.stop()


def take_all(browser, url: str) -> None:
    """Pictures to have a history, then the page with one of them in light, in dark, on a phone, and a grid."""
    tab = PageDriver(browser, url)
    for seed, prompt in enumerate(PROMPTS):
        tab.unfold("advanced")
        tab.fill("Seed", str(seed))
        tab.draw(prompt)
    tab.close()
    for name, index, given in (
        ("page-light", 0, {}),
        ("page-dark", 1, {"dark": True}),
        ("page-phone", 0, {"size": PHONE, "scale": 2.0}),
    ):
        tab = PageDriver(browser, url, **given)
        tab.page.locator("#history button[data-name^='use:']").nth(index).click()
        tab.finished("These are the settings of this image")
        tab.page.wait_for_selector("#reading .chip")
        take(tab, name, top="#reason" if given.get("size") == PHONE else "body")
        tab.close()
    take_grid(browser, url)


def take_grid(browser, url: str) -> None:
    """Steps across, guidance down."""
    tab = PageDriver(browser, url)
    tab.unfold("advanced")
    tab.fill("Seed", "1")
    tab.page.locator("#advanced > button").click()
    tab.unfold("grid")
    tab.choose("X varies", "steps")
    tab.fill("X values", "4, 8, 20")
    tab.choose("Y varies", "guidance")
    tab.fill("Y values", "1\n5")
    tab.prompt.fill(PROMPTS[1])
    tab.page.click("#draw-grid")
    tab.finished("6 of 6 images done")
    take(tab, "page-grid")
    tab.close()


def take_report(browser, file: Path) -> None:
    """The result, the chart and the first prompts of a report; what lies between them is left out."""
    tab = ReportDriver(browser, file, size=(1400, 1500))
    tab.page.evaluate("for (const id of ['comparisons', 'categories']) document.getElementById(id).hidden = true")
    tab.page.locator("article img").first.wait_for()
    tab.page.evaluate("Promise.all([...document.images].map((one) => one.decode()))")
    image = Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")
    tab.close()
    path = FOLDER / "evaluate_report.png"
    with whole_file(path) as temporary:
        image.quantize(256, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)
    assert path.stat().st_size < MOST_OF_REPORT, f"{path} has {path.stat().st_size} bytes"
    print(path.relative_to(ROOT), path.stat().st_size)


def take(tab: PageDriver, name: str, top: str = "body") -> None:
    """Write what the window shows from `top` on, with every picture loaded and the pointer out of the way."""
    tab.page.mouse.move(0, 0)
    tab.page.evaluate("document.activeElement.blur()")
    tab.page.evaluate("(top) => document.querySelector(top).scrollIntoView()", top)
    tab.page.wait_for_function("[...document.images].every((one) => one.complete || one.loading === 'lazy')")
    tab.page.wait_for_timeout(1000)
    image = Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")
    if image.width > 1280:
        image = image.resize((1280, image.height * 1280 // image.width), Image.Resampling.LANCZOS)
    path = FOLDER / f"{name}.webp"
    with whole_file(path) as temporary:
        image.save(temporary, "WEBP", quality=85, method=6)
    assert path.stat().st_size < MOST, f"{path} has {path.stat().st_size} bytes"
    print(path.relative_to(ROOT), path.stat().st_size)


def take_vote(browser, results: Path, folder: Path) -> None:
    """The voting page at its fifth pair; a fixed key decides which that is."""
    shutil.copytree(results, folder, ignore=shutil.ignore_patterns("votes.*", "judgements"))
    (folder / "votes.key").write_text("0" * 64 + "\n")
    running = RunningVote(folder)
    try:
        tab = VoteDriver(browser, running.url)
        tab.start("Ann")
        for _ in range(VOTED):
            tab.press("ArrowLeft")
        tab.page.mouse.move(0, 0)
        path = FOLDER / "evaluate_vote.png"
        with whole_file(path) as temporary:
            image = Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")
            image.quantize(256, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)
        tab.close()
    finally:
        running.end(signal.SIGTERM)
    assert path.stat().st_size < MOST_OF_VOTE, f"{path} has {path.stat().st_size} bytes"
    print(path.relative_to(ROOT), path.stat().st_size)


if __name__ == "__main__":
    main()
