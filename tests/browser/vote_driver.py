"""Drives the voting page in a real browser, by what a person sees and presses."""

from playwright.sync_api import Browser

from tests.browser.driver import DESKTOP, PATIENCE, Looking


class VoteDriver(Looking):
    """One tab with the voting page open.

    Args:
        browser: from `open_browser`.
        url: of the server.
        size, dark, scale: as `PageDriver` has them.
    """

    def __init__(
        self, browser: Browser, url: str, size: tuple[int, int] = DESKTOP, dark: bool = False, scale: float = 1.0
    ):
        self.context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            device_scale_factor=scale,
            has_touch=size[0] < 600,
        )
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.elsewhere: list[str] = []
        """Addresses of other origins that the page has asked for."""
        self.mistakes: list[str] = []
        """What the page's scripts, and the policy against loading, complained of."""
        self.page.on("request", lambda one: self.elsewhere.append(one.url) if not one.url.startswith(url) else None)
        self.page.on("pageerror", lambda error: self.mistakes.append(str(error)))
        self.page.on("console", lambda said: self.mistakes.append(said.text) if said.type == "error" else None)
        self.page.goto(url)

    def start(self, name: str) -> None:
        """Give a name, or none, and wait for the first pair."""
        self.page.get_by_label("Your name").fill(name)
        self.page.keyboard.press("Enter")
        self.wait()

    def wait(self) -> None:
        """Until a pair is shown and can be voted on."""
        self.page.wait_for_selector("[data-choice=left]:enabled")

    def wait_for(self, count: int) -> None:
        """Until so many are answered and the next pair is shown."""
        self.page.locator("#count").filter(has_text=f"{count} of").wait_for()
        self.wait()

    def press(self, key: str, wait: bool = True) -> None:
        """Press a key that votes or undoes, and wait until it has."""
        with self.page.expect_response(lambda answer: answer.request.method == "POST"):
            self.page.keyboard.press(key)
        if wait:
            self.wait()

    def click(self, name: str) -> None:
        """Press a button that votes, and wait until it has."""
        with self.page.expect_response(lambda answer: answer.request.method == "POST"):
            self.page.get_by_role("button", name=name).last.click()
        self.wait()

    def count(self) -> str:
        """How many are answered."""
        return self.page.locator("#count").inner_text()

    def sources(self) -> list[str]:
        """The addresses of the two images."""
        return [image.get_attribute("src") for image in self.page.locator(".image img").all()]

    def close(self) -> None:
        """Close the tab."""
        self.context.close()
