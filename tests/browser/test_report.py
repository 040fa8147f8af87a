"""The report of a comparison, opened from its file in headless Chromium without a network."""

import pytest

from leanlens.evaluate.report import write_report
from tests.browser.driver import PHONE, ReportDriver
from tests.evaluate import comparison

pytestmark = pytest.mark.long

PROMPTS = (
    "</script><script>document.title = 'acted'</script>",
    'a <b>bold</b> "fox" & an <img src=x onerror=alert(1)>',
    "\u05e9\u05d5\u05e2\u05dc \u202eevil",
    "word " * 2_000,
)


def found(num: int = 8) -> dict:
    """Three models, of which the last is incomplete, and a control; judges that disagree on the fourth prompt."""
    results = comparison.results(num, ("lens", "flux", "nano", "kin"), PROMPTS)
    results["models"]["kin"]["role"] = "control"
    results["comparisons"][0]["second"] = "flux"
    judged = results["items"][3]["images"]["lens"][0]["judgements"]
    judged["second"]["score"]["object"] = 0.0
    results["items"][5]["images"]["nano"][0]["judgements"]["first"]["score"]["object"] = {"failed": "timeout"}
    reasoned = {"original": "a", "prompt": "a caption in full", "source": "scenes 1"}
    results["items"][4]["images"]["lens"][0]["reasoned"] = reasoned
    pair = {"judge": "second", "first": "lens", "second": "flux"}
    results["pairs"] = [{**pair, "wins_of_second": 0.2, "low": 0.1, "high": 0.3, "num": num, "flips": 0.1, "failed": 0}]
    results["agreements"] = [{"judges": ["first", "second"], "kappa": 0.7, "share": 0.9, "num": num}]
    results["items"][5]["pairs"] = [{**pair, "image": 0, "result": 1.0, "raw": {"orders": ["A", "B"]}}]
    results["set_scorers"] = {"KID": {"higher_is_better": False, "identity": {}}}
    results["set_scores"] = {"lens": {"KID": 0.01234}, "flux": {"KID": {"failed": "too few"}}}
    return comparison.fail(results, "nano", 3)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = comparison.write(tmp_path_factory.mktemp("report") / "out", found(), 64)
    write_report(folder)
    return folder / "report.html"


@pytest.fixture
def visit(browser, file):
    """Opens the report; at the end nothing may have been asked for, and no script may have complained."""
    opened: list[ReportDriver] = []

    def tab(**given) -> ReportDriver:
        opened.append(ReportDriver(browser, given.pop("file", file), **given))
        return opened[-1]

    yield tab
    for one in opened:
        assert (one.elsewhere, one.mistakes) == ([], [])
        one.close()


def test_scores_stand_with_intervals_and_an_incomplete_model_has_none(visit):
    tab = visit()
    assert tab.text("tr[data-model=lens]").startswith("1 lens 90.0 85.0\u201395.0")
    assert tab.text("tr[data-model=nano]").split()[:2] == ["nano", "incomplete"]
    assert "nano is incomplete and has no score: 3 of 24 judgements failed (3 x timeout)" in tab.text("#result .notice")
    assert tab.text("#result .verdict").startswith("lens is ahead of flux by 25.0 points")
    assert "control" in tab.text("tr[data-model=kin]")
    assert "second lens flux 20.0 10.0\u201330.0" in tab.text("#comparisons tbody")
    assert "Cohen's kappa 0.70 over 8 pairs" in tab.text("#comparisons")
    assert "KID 0.01234 failed lower is better" in tab.text("#categories")
    assert "another detector" in tab.text("#result .deviations")
    assert "Not measured here" in tab.text("#published .notice")
    assert tab.page.title() == "GenEval, leanlens"


def test_what_others_wrote_is_shown_as_text(visit):
    tab = visit()
    tab.scroll_to_images()
    assert tab.page.locator("article .prompt").nth(0).inner_text() == PROMPTS[0]
    assert tab.page.locator("article .prompt").nth(1).inner_text() == PROMPTS[1]
    assert tab.page.locator("article img:not([src^='data:'])").count() == 0
    assert tab.page.locator("article .prompt").nth(2).get_attribute("dir") == "auto"
    assert tab.page.locator("article").nth(3).bounding_box()["height"] < 900


def test_prompts_are_searched_filtered_and_sorted(visit):
    tab = visit()
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("fox number")
    assert tab.ids() == ["00004", "00005", "00006", "00007"]
    tab.page.fill("#search", "caption in full")  # rewritten prompts are found too
    assert tab.ids() == ["00004"]
    tab.page.fill("#search", "")
    tab.page.select_option("#category", "one")
    assert tab.ids() == ["00001", "00003", "00005", "00007"]
    tab.page.select_option("#category", "")
    tab.page.select_option("#criterion", "first\nobject")
    tab.page.select_option("#state", "unmet")
    tab.page.select_option("#who", "=flux")
    assert tab.ids() == ["00001", "00003", "00005", "00007"]
    tab.page.select_option("#who", "=lens")
    assert tab.ids() == []
    tab.page.select_option("#state", "failed")
    tab.page.select_option("#who", "")
    assert tab.ids() == ["00005"]
    assert tab.text("#shown") == "1 of 8 prompts"
    for name in ("#state", "#criterion"):
        tab.page.select_option(name, "")
    tab.page.select_option("#order", "models")
    assert sorted(tab.ids()[:4]) == ["00001", "00003", "00005", "00007"]
    tab.page.select_option("#order", "judges")
    assert tab.ids()[0] == "00003"
    tab.page.select_option("#order", "low\nflux")
    assert tab.ids()[0] == "00001"
    tab.page.click("button[data-show=flux]")
    tab.scroll_to_images()
    assert tab.page.locator("article").first.locator("figure").count() == 2


def test_a_prompt_opens_with_seed_settings_and_raw_judgement_from_the_keyboard(visit):
    tab = visit()
    for _ in range(5):
        tab.page.keyboard.press("j")
    tab.page.keyboard.press("Enter")
    lens = tab.page.locator("#detail figure[data-model=lens]")
    assert "seed 2030" in lens.inner_text()
    assert "a caption in full" in lens.inner_text()
    lens.locator("details.raw summary").first.click()
    assert '"fox"' in lens.locator("details.raw pre").first.inner_text()
    lens.get_by_text("Settings").click()
    assert '"steps": 20' in lens.inner_text()
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator("#detail .where bdi").first.inner_text() == "00005"
    assert "failed: timeout" in tab.text("#detail figure[data-model=nano]")
    assert "second: lens against flux \u2013 lens wins" in tab.text("#detail .pairs")
    tab.page.keyboard.press("+")
    shown = tab.page.locator("#detail .hold img").evaluate_all("(all) => all.map((one) => one.style.transform)")
    assert len(set(shown)) == 1
    assert "scale(1.5)" in shown[0]
    tab.page.keyboard.press("0")
    tab.page.keyboard.press("Escape")
    assert not tab.page.locator("#detail").is_visible()
    assert tab.page.evaluate("document.activeElement.dataset.id") == "00005"


def test_the_chart_has_three_axes(visit):
    tab = visit()
    for axis, word in (("seconds", "Seconds for an image"), ("bytes", "MB of memory"), ("flop", "FLOP for an image")):
        tab.page.click(f"button[data-axis={axis}]")
        said = tab.text("#cost .chart")
        assert word in said
        assert "Not in the chart: nano (no score)" in said
    assert tab.page.locator("#cost svg g[data-model]").count() == 2
    before, after = tab.page.locator("#cost svg g[data-model] .mark").evaluate_all(
        "(all) => all.map((one) => one.getBoundingClientRect().left)"
    )
    assert after > before  # flux takes twice the FLOP


def test_light_dark_phone_and_print(visit):
    for given in ({}, {"dark": True}, {"size": PHONE}):
        tab = visit(**given)
        assert tab.overflowing() == []
        assert tab.faint("main h2, main p, main td, main th, main figcaption *, #nav a, button") == []
    tab.page.click("#theme")
    assert tab.faint("main h2, main p, main td, figcaption *") == []
    tab.page.emulate_media(media="print")
    assert not tab.page.locator("#bar").is_visible()
    assert tab.page.locator("article").first.is_visible()


def test_only_what_is_near_the_window_is_filled_in(visit, tmp_path):
    folder = comparison.write(tmp_path / "out", comparison.results(200, ("a", "b", "c")), 8)
    write_report(folder)
    tab = visit(file=folder / "report.html")
    assert len(tab.ids()) == 200
    tab.scroll_to_images()
    assert tab.page.locator("article img").count() < 200
    tab.page.locator("article").nth(199).scroll_into_view_if_needed()
    tab.page.locator("article").nth(199).locator("img").first.wait_for()
