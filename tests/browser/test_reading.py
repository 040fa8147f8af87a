"""What the page shows of a prompt before it is drawn, on a toy model that states a caption style."""

import pytest

from leanlens.pipeline.metadata import read_record
from tests.browser.driver import PHONE

pytestmark = pytest.mark.long

HOSTILE = 'a sign that says "<img src=x onerror=document.title=1>"'


@pytest.fixture
def visit(site):
    """`visit()` -> a tab in which the model whose prompts are rewritten is chosen."""

    def make(**given):
        tab = site.visit(**given)
        tab.choose("Model", "captioned")
        tab.page.wait_for_selector("#reason")
        tab.page.locator("#reading").get_by_text("While you type").wait_for()
        return tab

    return make


def chips(tab) -> list[str]:
    return [text.replace("\n", " ") for text in tab.page.locator("#reading .chip .edit").all_inner_texts()]


def wait_for_chip(tab, words: str) -> None:
    tab.page.locator("#reading .chip").filter(has_text=words).first.wait_for()


def caption(tab) -> str:
    return tab.page.locator("#caption").text_content()


def edit(tab, key: str, value: str) -> None:
    tab.page.locator(f"#reading .edit[data-at='{key}']").click()
    tab.page.locator("#reading .editor").get_by_role("button", name=value, exact=True).click()


def test_what_is_typed_is_shown_edited_and_drawn_so(site, visit):
    tab = visit()
    tab.prompt.press_sequentially("two red apples left of a blue teapot")
    wait_for_chip(tab, "red apple left of blue teapot")
    assert {"2", "red", "apple", "blue", "teapot", "red apple left of blue teapot"} <= set(chips(tab))
    assert "two red apples" in caption(tab)
    chosen = tab.page.locator("#reading .chip.chosen").all_inner_texts()
    edit(tab, "color 1", "green")
    tab.page.locator("#caption").filter(has_text="two green apples").wait_for()
    assert tab.page.locator("#reading .chip.chosen").all_inner_texts() == chosen  # the rest stays as it was
    shown = caption(tab)
    tab.page.click("#draw")
    (name,) = tab.finished()
    request = read_record(site.picture(name))["request"]
    assert request["prompt"] == shown
    assert request["reasoner"]["original"] == "two red apples left of a blue teapot"
    assert request["reasoner"]["fixed"] == {"color 1": "green"}
    tab.page.locator("#stage details summary").click()
    assert shown in tab.said()
    tab.page.click("#draw")
    (second,) = tab.finished()
    assert read_record(site.picture(second))["request"]["seed"] != request["seed"]
    tab.prompt.fill("two red apples left of a blue teapot, please")  # another prompt, for which no edit was made
    tab.page.locator("#caption").filter(has_text="two red apples").wait_for()
    tab.page.locator(f"#history button[data-name='use:{name}']").click()
    tab.finished("These are the settings of this image")
    tab.page.locator("#caption").filter(has_text=shown).wait_for()
    tab.page.click("#draw")
    (again,) = tab.finished()
    assert site.picture(again).read_bytes() == site.picture(name).read_bytes()


def test_a_lock_is_kept_for_every_prompt_and_off_stays_off(visit):
    tab = visit()
    tab.prompt.fill("a dog")
    wait_for_chip(tab, "dog")
    edit(tab, "background", "teal")
    wait_for_chip(tab, "teal")
    tab.page.locator("#reading .background .lock").click()
    tab.page.wait_for_selector("#reading .background.locked")
    for prompt in ("a cat", "three stars"):
        tab.prompt.fill(prompt)
        wait_for_chip(tab, prompt.split()[1].removesuffix("s"))
        assert "background teal" in chips(tab)
        assert "teal" in caption(tab)
    tab.prompt.fill("a cat left of a dog")
    tab.page.locator("#reading .edit[data-at='relation 1']").click()
    tab.page.get_by_role("button", name="Lock for every prompt").click()
    tab.page.wait_for_selector("#reading .relation.locked")
    tab.prompt.fill("a star")
    tab.page.get_by_role("button", name="Unlock relation 1: left of").click()  # no chip of this prompt shows it
    tab.page.get_by_text("not in this prompt").wait_for(state="detached")
    tab.open()
    tab.page.wait_for_selector("#reading .background.locked")
    assert "background teal" in chips(tab)
    tab.page.locator("#reason input").uncheck()
    tab.page.locator("#reading").get_by_text("Your prompt is drawn as you write it.").wait_for()
    tab.open()
    tab.page.locator("#reading").get_by_text("Your prompt is drawn as you write it.").wait_for()
    assert not tab.page.locator("#reason input").is_checked()
    tab.page.locator("#reason input").check()
    tab.page.wait_for_selector("#reading .background.locked")


def test_hostile_text_is_text(site, visit):
    tab = visit()
    tab.prompt.fill(HOSTILE)
    wait_for_chip(tab, "<img src=x")
    assert "“<img src=x onerror=document.title=1>”" in chips(tab)
    assert HOSTILE.partition('"')[2].rstrip('"') in caption(tab)
    tab.page.locator("#reading .edit[data-at='text 1']").click()
    tab.page.locator("#reading .editor input").fill("<b>${1}</b>")
    tab.page.keyboard.press("Enter")
    wait_for_chip(tab, "“<b>${1}</b>”")
    tab.page.click("#draw")
    (name,) = tab.finished()
    assert "<b>${1}</b>" in read_record(site.picture(name))["request"]["prompt"]
    assert tab.page.locator("#reading :is(img, b), #stage b").count() == 0
    assert tab.page.title() == "leanlens"


def test_it_is_used_from_the_keyboard(visit):
    tab = visit()
    tab.prompt.press_sequentially("a red teap")
    tab.page.locator("#suggest button").filter(has_text="teapot").wait_for()
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    assert tab.prompt.input_value() == "a red teapot "
    wait_for_chip(tab, "teapot")
    chip = tab.page.locator("#reading .edit[data-at='color 1']")
    chip.focus()
    tab.page.keyboard.press("Enter")
    assert tab.focused() == "red"
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("#reading .editor").count() == 0
    assert chip.evaluate("(one) => one === document.activeElement")
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Enter")
    wait_for_chip(tab, "orange")
    tab.page.keyboard.press("Delete")
    tab.page.locator("#reading .chip").filter(has_text="orange").wait_for(state="detached")
    tab.page.get_by_role("button", name="Undo my edits").click()
    wait_for_chip(tab, "red")


def test_a_model_that_reads_prompts_as_they_are_says_so(site, tmp_path):
    from PIL import Image

    tab = site.visit()
    tab.page.locator("#reading").get_by_text("toy draws prompts as they are written.").wait_for()
    assert not tab.page.locator("#reason").is_visible()
    tab.prompt.press_sequentially("a red teap")
    assert not tab.page.locator("#suggest button").count()
    tab.choose("Model", "captioned")
    wait_for_chip(tab, "background")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "in.png")
    tab.start_from(tmp_path / "in.png")
    tab.page.locator("#reading").get_by_text("With a source image").wait_for()


@pytest.mark.parametrize("given", [{"dark": True}, {"size": PHONE}])
def test_it_can_be_read_in_the_dark_and_on_a_phone(visit, given):
    tab = visit(**given)
    tab.prompt.fill("three green cats under a red umbrella next to a xyzzy, flat style")
    wait_for_chip(tab, "umbrella")
    assert tab.overflowing() == []
    assert tab.faint("#reading button, #reading p, #reading .words, #reading small, #reason span") == []
    tab.page.locator("#reading .edit[data-at='background']").click()
    assert tab.overflowing() == []
    assert tab.faint("#reading .editor button") == []
