"""The voting page in a real browser, on a folder that the test writes itself."""

import json

import pytest

from tests.browser.driver import DESKTOP, PHONE
from tests.browser.vote_driver import VoteDriver
from tests.evaluate.vote.folder import write_folder
from tests.evaluate.vote.running import Running

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def poll(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("vote") / "out", 20, text=True)
    running = Running(folder, "--question", "prompt")
    yield running.url, folder
    running.end(15)


@pytest.fixture
def visit(browser, poll):
    """`visit("Ann")` -> a tab of that voter; at the end no tab may have asked elsewhere or had a mistake."""
    tabs = []

    def make(name, **given):
        tabs.append(VoteDriver(browser, poll[0], **given))
        tabs[-1].start(name)
        return tabs[-1]

    yield make
    for tab in tabs:
        tab.close()
        assert tab.elsewhere == []
        assert tab.mistakes == []


def votes_of(folder, voter):
    rows = [json.loads(line) for line in (folder / "votes.jsonl").read_text().splitlines()]
    return [row.get("choice", "undo") for row in rows if row["voter"] == voter]


def test_buttons_and_keys_vote(visit, poll):
    tab = visit("Keys")
    for key in ("ArrowLeft", "2", "ArrowDown", "4", "3"):
        tab.press(key)
    tab.click("Left")
    assert votes_of(poll[1], "Keys") == ["left", "right", "tie", "bad", "tie", "left"]
    assert tab.count() == "6 of 23 answered"


def test_undo_shows_the_pair_again(visit, poll):
    tab = visit("Undo")
    before = tab.sources()
    tab.press("ArrowLeft")
    assert tab.sources() != before
    tab.press("u")
    assert tab.sources() == before
    assert tab.page.locator("#undo").is_disabled()
    tab.press("ArrowRight")
    assert votes_of(poll[1], "Undo") == ["left", "undo", "right"]


def test_a_double_click_is_one_vote(visit, poll):
    tab = visit("Double")
    tab.page.locator("[data-choice=left]").dblclick()
    tab.wait_for(1)
    tab.page.locator("[data-choice=left]").dblclick(delay=400)  # the next pair is there before the second click
    tab.wait_for(2)
    tab.page.wait_for_timeout(300)
    assert votes_of(poll[1], "Double") == ["left", "left"]


def test_the_page_continues_after_it_is_loaded_again(visit):
    tab = visit("Again")
    tab.press("ArrowLeft")
    before = tab.sources()
    tab.page.reload()
    tab.wait_for(1)
    assert tab.sources() == before


def test_a_server_that_is_gone_is_said_and_the_vote_can_be_sent_again(visit, poll):
    tab = visit("Offline")
    tab.page.route("**/vote", lambda route: route.abort())
    tab.page.keyboard.press("ArrowLeft")
    alert = tab.page.locator("#alert")
    alert.wait_for()
    assert "Nothing was stored: the server does not answer" in alert.inner_text()
    tab.page.unroute("**/vote")
    tab.press("ArrowLeft")
    assert alert.is_hidden()
    assert votes_of(poll[1], "Offline") == ["left"]
    tab.mistakes.clear()  # the request that was aborted


def test_images_can_be_enlarged_without_voting(visit, poll):
    tab = visit("Zoom")
    zoom = tab.page.locator("#zoom")
    tab.page.get_by_label("Enlarge the right image").click()
    assert zoom.is_visible()
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("Escape")
    assert zoom.is_hidden()
    for visible in (True, True, False):
        tab.page.keyboard.press("z")
        assert zoom.is_visible() == visible
    assert votes_of(poll[1], "Zoom") == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 560)])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_can_be_read_on_any_screen(visit, size, dark):
    tab = visit(f"Screen {size[0]} {dark}", size=size, dark=dark)
    tab.press("ArrowLeft")  # nothing is disabled after the first vote
    assert tab.overflowing() == []
    assert tab.faint("h1, blockquote, button, #count, kbd") == []
    for button in tab.page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 44
    boxes = [image.bounding_box() for image in tab.page.locator(".image").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=0.1)


def test_the_end_is_said(visit):
    tab = visit("")
    for at in range(23):
        tab.press("ArrowLeft", wait=at < 22)
    tab.page.get_by_text("That was the last pair").wait_for()
    assert tab.page.locator("#vote").is_hidden()
