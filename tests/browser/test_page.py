"""The page as a person uses it: in headless Chromium, against a server of its own."""

import io

import numpy as np
import pytest
from PIL import Image

from leanlens.pipeline.metadata import read_record
from tests.browser.driver import PHONE

pytestmark = pytest.mark.long


def request_of(site, name: str) -> dict:
    return read_record(site.picture(name))["request"]


def shape(tab, selector: str) -> tuple[int, int]:
    """Width and height of a loaded picture in its own pixels."""
    return tuple(tab.page.locator(selector).first.evaluate(
        "async (image) => { await image.decode(); return [image.naturalWidth, image.naturalHeight]; }"
    ))  # fmt: skip


def test_a_picture_is_drawn_from_the_keyboard_with_looks_on_the_way(site):
    tab = site.visit()
    tab.page.keyboard.type("a red fox")  # the prompt has the focus from the start
    tab.unfold("advanced")
    tab.fill("Steps", "90")
    tab.fill("Size", "256x192")
    tab.prompt.press("Shift+Enter")
    tab.drawing()
    assert "Step " in tab.said()
    (name,) = tab.finished()
    assert shape(tab, "#stage img") == (256, 192)
    tab.page.locator(f"#history img[src='pictures/{name}']").wait_for()
    assert tab.pictures("#history")[0] == name
    request = request_of(site, name)
    assert (request["prompt"], request["num_inference_steps"]) == ("a red fox", 90)
    with tab.page.expect_download() as saved:
        tab.page.get_by_role("link", name="Download").click()
    assert saved.value.path().read_bytes() == site.picture(name).read_bytes()


def test_stop_stops(site):
    tab = site.visit()
    tab.unfold("advanced")
    tab.fill("Steps", "100")
    tab.fill("Size", "512x512")
    tab.prompt.fill("a slow fox")
    tab.page.click("#draw")
    tab.drawing()
    tab.page.click("#stop")
    tab.finished("^No image$")
    assert "Stopped at step" in tab.said()
    assert (site.jobs()[0]["state"], tab.pictures("#stage")) == ("cancelled", [])


def test_a_reload_keeps_the_history_and_stops_what_is_drawn(site):
    tab = site.visit()
    (name,) = tab.draw("kept")
    tab.unfold("advanced")
    tab.fill("Steps", "100")
    tab.fill("Size", "512x512")
    tab.prompt.fill("not kept")
    tab.page.click("#draw")
    tab.drawing()
    tab.open()
    assert tab.pictures("#history")[0] == name
    assert tab.page.locator("#history img").first.get_attribute("alt") == "kept"
    tab.page.wait_for_timeout(1000)
    assert site.jobs()[0]["state"] == "cancelled"


def test_settings_come_back_from_a_dropped_picture_and_from_the_history(site):
    tab = site.visit()
    tab.unfold("advanced")
    tab.fill("Negative prompt", "fog")
    tab.fill("Steps", "7")
    tab.fill("Guidance", "2.5")
    tab.fill("Seed", str(2**63 - 5))
    tab.page.get_by_label("16:9", exact=True).check()
    (name,) = tab.draw("a lighthouse")
    first = site.picture(name).read_bytes()
    for way in ("drop", "press"):
        tab.open()
        tab.unfold("advanced")
        if way == "drop":
            tab.drop(site.picture(name))
        else:
            tab.page.locator(f"#history button[data-name='use:{name}']").click()
        tab.finished("These are the settings of this image")
        assert tab.pictures("#stage") == ([] if way == "drop" else [name])
        assert tab.prompt.input_value() == "a lighthouse"
        assert [tab.value(label) for label in ("Negative prompt", "Steps", "Guidance", "Seed")] == [
            "fog", "7", "2.5", str(2**63 - 5),
        ]  # fmt: skip
        assert tab.page.get_by_label("16:9", exact=True).is_checked()
        tab.page.click("#draw")
        (again,) = tab.finished()
        assert site.picture(again).read_bytes() == first


def test_a_picture_without_settings_and_what_is_no_picture_are_refused(site, tmp_path):
    tab = site.visit()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "other.png")
    tab.drop(tmp_path / "other.png")
    tab.finished("carries no leanlens settings")
    tab.prompt.fill("x")
    tab.unfold("advanced")
    tab.fill("Strength", "much")
    tab.fill("Size", "33x32")
    tab.page.click("#draw")
    tab.finished("width 33")


def test_a_suggestion_fills_the_prompt(site):
    tab = site.visit()
    tab.page.locator("#stage").get_by_role("button", name="a penguin").click()
    tab.page.wait_for_function("document.querySelector('#prompt textarea').value === 'a penguin'")


def test_a_grid_varies_two_settings(site):
    tab = site.visit()
    tab.unfold("grid")
    tab.choose("X varies", "steps")
    tab.fill("X values", "1, 3")
    tab.choose("Y varies", "aspect")
    tab.fill("Y values", "1:1\n2:1")
    tab.prompt.fill("a fox")
    tab.page.click("#draw-grid")
    found = tab.finished("4 of 4 images")
    requests = [request_of(site, name) for name in found]
    assert [request["num_inference_steps"] for request in requests] == [1, 3, 1, 3]
    assert [request["width"] > request["height"] for request in requests] == [False, False, True, True]
    assert len({request["seed"] for request in requests}) == 1
    heads = tab.page.locator("#stage th").all_inner_texts()
    assert heads == ["steps 1", "steps 3", "aspect 1:1", "aspect 2:1"]


def test_what_is_painted_over_is_drawn_anew(site, tmp_path):
    tab = site.visit()
    picture = Image.radial_gradient("L").convert("RGB").resize((128, 96))
    picture.save(tmp_path / "in.png")
    canvas = tab.start_from(tmp_path / "in.png")
    tab.unfold("advanced")  # so that every field has been seen: one left blank is not to count as 0
    (plain,) = tab.draw("a fox")
    request = request_of(site, plain)
    assert (request["mask"], request["strength"], request["width"], request["height"]) == (None, 0.6, 128, 96)
    tab.paint(canvas, [((0.55, 0.35), (0.8, 0.35)), ((0.55, 0.5), (0.8, 0.5)), ((0.55, 0.65), (0.8, 0.65))])
    (painted,) = tab.draw("a fox")
    request = request_of(site, painted)
    assert request["strength"] == 1.0
    with Image.open(request["mask"]) as opened:
        mask = np.asarray(opened.convert("L")) > 0
    assert mask.shape == (96, 128)
    assert 0.01 < mask.mean() < 0.6
    assert mask[:, 64:].mean() > 3 * mask[:, :64].mean()
    with Image.open(io.BytesIO(site.picture(painted).read_bytes())) as drawn:
        change = np.abs(np.asarray(drawn, dtype=int) - np.asarray(picture, dtype=int)).max(-1)
    assert change[mask].mean() > 20
    assert change[:, :32].max() <= 1


@pytest.mark.parametrize("button", ["draw", "draw-grid", "keyboard"])
def test_a_press_waits_for_the_image_that_is_being_read(site, tmp_path, button):
    tab = site.visit()
    Image.new("RGB", (128, 96), "teal").save(tmp_path / "in.png")
    tab.unfold("grid")
    tab.fill("X values", "2, 3")
    tab.prompt.fill("a fox")
    with tab.held_back("createImageBitmap"):
        tab.choose_source(tmp_path / "in.png")
        if button == "keyboard":
            tab.prompt.press("Shift+Enter")
        else:
            tab.page.click(f"#{button}")
        tab.page.locator("#waiting").get_by_text("Waiting for the image to start from").wait_for()
    found = tab.finished()
    assert len(found) == (2 if button == "draw-grid" else 1)
    for name in found:
        request = request_of(site, name)
        assert (request["strength"], request["width"], request["height"]) == (0.6, 128, 96)
    assert tab.page.locator("#waiting p").text_content() == ""


def test_a_file_that_is_no_image_is_said_to_be_none(site, tmp_path):
    tab = site.visit()
    (tmp_path / "in.png").write_bytes(b"no image")
    tab.unfold("source").locator(".toolbar-wrap").wait_for()
    tab.prompt.fill("a fox")
    before = len(site.jobs())
    with tab.held_back("createImageBitmap"):
        tab.choose_source(tmp_path / "in.png")
        tab.page.click("#draw")
    alert = tab.page.locator("#waiting [role=alert]")
    alert.get_by_text("in.png is not a readable image. Nothing was drawn; press Draw again.").wait_for()
    assert len(site.jobs()) == before
    tab.page.click("#draw")
    (name,) = tab.finished()
    assert request_of(site, name)["strength"] is None
    tab.mistakes[:] = [said for said in tab.mistakes if "could not be decoded" not in said]  # Gradio's, in the console


def test_a_stroke_is_in_the_drawing_pressed_right_after_it(site, tmp_path):
    tab = site.visit()
    Image.new("RGB", (128, 96), "teal").save(tmp_path / "in.png")
    tab.prompt.fill("a fox")
    canvas = tab.start_from(tmp_path / "in.png")
    tab.paint(canvas, [((0.4, 0.4), (0.6, 0.6))])
    tab.page.evaluate("document.querySelector('#draw').click()")
    (name,) = tab.finished()
    request = request_of(site, name)
    assert (request["mask"] is not None, request["strength"]) == (True, 1.0)


def test_an_image_that_the_editor_loses_is_not_left_out(site, tmp_path):
    """Gradio's editor may fail to hand out what it shows after undo and redo."""
    tab = site.visit()
    Image.new("RGB", (128, 96), "teal").save(tmp_path / "in.png")
    tab.prompt.fill("a fox")
    tab.start_from(tmp_path / "in.png")
    tab.page.locator("#source").get_by_label("Undo", exact=True).click()
    tab.page.click("#draw")
    (name,) = tab.finished()
    assert request_of(site, name)["strength"] is None
    tab.page.locator("#source").get_by_label("Redo", exact=True).click()
    tab.page.click("#draw")
    found = tab.finished("^Done$|could not be read; add it again")
    assert [request_of(site, name)["strength"] for name in found] in ([], [0.6])


@pytest.mark.parametrize("way", ["drop", "reuse", "suggestion", "model"])
def test_a_press_waits_for_the_form_that_is_being_filled_in(site, way):
    tab = site.visit()
    tab.unfold("advanced")
    tab.fill("Seed", "5")
    (name,) = tab.draw("a lighthouse")
    tab.open()
    tab.prompt.fill("another")
    if way == "model":
        tab.unfold("advanced")
        tab.fill("Steps", "2")
    with tab.held_back("fetch"):
        if way == "drop":
            tab.drop(site.picture(name))
        elif way == "reuse":
            tab.page.locator(f"#history button[data-name='use:{name}']").click()
        elif way == "suggestion":
            tab.page.locator("#stage").get_by_role("button", name="a penguin").click()
        else:
            tab.choose("Model", "captioned")
        tab.page.click("#draw")
        tab.page.locator("#waiting").get_by_text("Waiting for").wait_for()
    (drawn,) = tab.finished()
    request = request_of(site, drawn)
    if way in ("drop", "reuse"):
        assert site.picture(drawn).read_bytes() == site.picture(name).read_bytes()
    elif way == "suggestion":
        assert request["prompt"] == "a penguin"
    else:
        assert request["num_inference_steps"] != 2


def test_what_was_just_typed_or_picked_is_drawn(site):
    tab = site.visit()
    tab.unfold("advanced")
    field = tab.page.locator("#loras input")
    for number, typed in enumerate(("ink", "ink:0.5")):
        tab.page.locator("#prompt textarea").fill(f"fox number {number}")
        if typed == "ink":
            field.click()
            tab.page.get_by_role("option", name="ink", exact=True).click()
        else:
            field.press("Backspace")
            field.fill(typed)
        tab.page.click("#draw")
        (name,) = tab.finished()
        request = request_of(site, name)
        assert request["prompt"] == f"fox number {number}"
        assert [lora["scale"] for lora in request["loras"]] == [1.0 if typed == "ink" else 0.5]


def test_a_lora_is_picked_at_a_strength(site):
    tab = site.visit()
    tab.unfold("advanced")
    tab.fill("Seed", "3")
    (plain,) = tab.draw("a fox")
    field = tab.page.locator("#loras input")
    field.click()
    tab.page.get_by_role("option", name="ink", exact=True).click()
    (whole,) = tab.draw("a fox")
    field.press("Backspace")
    field.fill("ink:0.5")
    field.press("Enter")
    (half,) = tab.draw("a fox")
    assert [lora["scale"] for lora in request_of(site, whole)["loras"]] == [1.0]
    assert [lora["scale"] for lora in request_of(site, half)["loras"]] == [0.5]
    assert len({site.picture(name).read_bytes() for name in (plain, whole, half)}) == 3


def test_a_phone_shows_everything_without_scrolling_sideways(site, tmp_path):
    tab = site.visit(size=PHONE)
    assert tab.overflowing() == []
    tab.draw("a fox on a telephone")
    stage, settings = (tab.page.locator(f"#{name}").bounding_box() for name in ("stage", "settings"))
    assert stage["y"] < 500 < settings["y"]  # the picture lies right under the button
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "in.png")
    for name in ("advanced", "grid"):
        tab.unfold(name)
    tab.start_from(tmp_path / "in.png")
    assert tab.overflowing() == []
    tab.choose("X varies", "steps")
    tab.fill("X values", "1,2,3,4")
    tab.page.click("#draw-grid")
    tab.finished("4 of 4 images")
    assert tab.overflowing() == []
    assert tab.page.locator("#stage .wide").evaluate("(part) => part.scrollWidth > part.clientWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_follow_the_system_and_a_button(site, dark):
    tab = site.visit(dark=dark)
    assert tab.is_dark() == dark
    tab.draw("a fox")
    tab.unfold("advanced")
    texts = "#head h1, #head small, button, .info-text, #asked label > span, #stage p, figcaption, #history button"
    assert tab.faint(texts) == []
    tab.page.click("#theme")
    assert tab.is_dark() != dark
    tab.page.wait_for_timeout(1000)  # colours change slowly
    assert tab.faint(texts) == []
    tab.open()
    assert tab.is_dark() != dark  # remembered


def test_the_keyboard_goes_through_the_page_in_its_order(site):
    tab = site.visit()
    tab.prompt.focus()
    order = []
    for _ in range(8):
        tab.page.keyboard.press("Tab")
        order.append(tab.focused())
    assert order == [
        "draw", "stop", "Model", "Images", "auto", "Advanced", "Start from an image",
        "Compare settings in a grid",
    ]  # fmt: skip
    tab.page.get_by_label("auto", exact=True).focus()
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.get_by_label("1:2", exact=True).is_checked()
    tab.page.keyboard.press("Tab")
    assert tab.focused() == "Advanced"
    tab.page.keyboard.press("Enter")
    tab.field("Seed").wait_for()
    tab.prompt.fill("by keys alone")
    tab.page.locator("#draw").focus()
    tab.page.keyboard.press("Enter")
    (name,) = tab.finished()
    assert request_of(site, name)["prompt"] == "by keys alone"
