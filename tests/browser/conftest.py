"""One browser and one server of the toy model for the tests of the page."""

import json
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from tests.browser.driver import PageDriver, open_browser
from tests.contract.running import Running


class Site:
    """A running server and the tabs that a test has open.

    Attributes:
        url, output: where it listens, and the folder it keeps its pictures in.
    """

    def __init__(self, browser, running: Running, output: Path):
        self.browser, self.url, self.output = browser, running.url, output
        self.tabs: list[PageDriver] = []

    def visit(self, **given) -> PageDriver:
        """A new tab; arguments as `PageDriver` has them."""
        self.tabs.append(PageDriver(self.browser, self.url, **given))
        return self.tabs[-1]

    def picture(self, name: str) -> Path:
        """The file of a drawn picture."""
        return self.output / "pictures" / name

    def jobs(self) -> list[dict]:
        """The newest jobs first."""
        with urllib.request.urlopen(f"{self.url}/v1/jobs") as answer:
            return json.load(answer)["data"]


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    """A server of two toy models, `toy` and one that states a caption style, `captioned`, with one LoRA, `ink`."""
    import torch

    from leanlens.pipeline.toy import toy_pipeline
    from leanlens.weights.lora import Lora, LowRank, write_lora

    folder = tmp_path_factory.mktemp("page")
    pipeline = toy_pipeline()
    pipeline.register_to_config(caption_style="scenes/common")
    pipeline.save_pretrained(folder / "captioned")
    layer = pipeline.transformer.transformer_blocks[0].attn.img_qkv
    pair = LowRank(torch.randn(2, layer.in_features), torch.randn(layer.out_features, 2), 2.0)
    (folder / "loras").mkdir()
    write_lora(folder / "loras" / "ink.safetensors", Lora({"transformer_blocks.0.attn.img_qkv": pair}, {}))
    running = Running(folder / "out", "--loras", str(folder / "loras"), "--model", str(folder / "captioned"))
    try:
        yield running.wait(), folder / "out"
    finally:
        assert running.stop() in (0, -15), running.log.read_text()


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.fixture
def site(browser, running):
    """The server; at the end no tab may have asked another origin or had a mistake in its scripts."""
    made = Site(browser, *running)
    yield made
    for tab in made.tabs:
        tab.close()
        assert tab.elsewhere == []
        assert tab.mistakes == []
