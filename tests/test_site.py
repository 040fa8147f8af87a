"""The documentation builds without a warning, and its checker finds every link that leads nowhere."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_site", ROOT / "docs" / "check_site.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_site"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["check_site"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_every_link_and_picture_of_the_site_is_there(check, site):
    assert check.problems(site) == []


def test_every_page_is_built_and_the_start_page_links_to_all(check, site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in site.glob("*.html")} == pages | {"404"}
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    missing = [page for page in sorted(pages - {"index"}) if f"({page}.md" not in text]
    assert missing == []


def test_make_docs_checks_what_it_built():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").split("\ndocs:")[1].split("\n\n")[0]
    assert "mkdocs build --strict" in lines
    assert lines.index("mkdocs build") < lines.index("docs/check_site.py")


def test_pictures_are_where_pages_look_for_them(site):
    gallery = (site / "gallery.html").read_text(encoding="utf-8")
    assert gallery.count('src="images/gallery/') == len(list((site / "images" / "gallery").glob("*.jpg"))) == 100


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<img src="gone.png">', "gone.png is not there"),
        ('<img src="here.png" srcset="here.png 1x, gone.png 2x">', "gone.png is not there"),
        ('<img src="../outside.png">', "../outside.png is not there"),
        ('<a href="#gone">x</a>', "#gone names nothing in its page"),
        ('<a href="other.html#gone">x</a>', "other.html#gone names nothing in its page"),
        ('<a href="gone/">x</a>', "gone/ is not there"),
        ('<script src="https://host/a.js"></script>', "loads https://host/a.js"),
        ('<link rel="stylesheet" href="//host/a.css">', "loads //host/a.css"),
        ('<div style="background: url(https://host/a.png)"></div>', "loads https://host/a.png"),
        ('<video poster="gone.png"></video>', "gone.png is not there"),
        ("<p>```python run</p>", "a code block that was not understood"),
    ],
)
def test_what_leads_nowhere_is_named(check, tmp_path, body, said):
    (tmp_path / "site").mkdir()
    (tmp_path / "outside.png").touch()
    (tmp_path / "site" / "here.png").touch()
    (tmp_path / "site" / "other.html").write_text('<h1 id="top">x</h1>', encoding="utf-8")
    (tmp_path / "site" / "index.html").write_text(body, encoding="utf-8")
    assert check.problems(tmp_path / "site") == [f"index.html: {said}"]


def test_what_is_there_is_not_named(check, tmp_path):
    (tmp_path / "a b.png").touch()
    (tmp_path / "style.css").write_text("p{background:url('a b.png')}", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "index.html").write_text('<a href="../index.html#x">up</a>', encoding="utf-8")
    body = (
        '<p id="x"><img src="a%20b.png"><a href="folder/">in</a><a href="https://host/page">out</a><a href="#x">x</a>'
    )
    (tmp_path / "index.html").write_text(body + '<img src="data:image/png;base64,AA">', encoding="utf-8")
    assert check.problems(tmp_path) == []


def test_an_empty_folder_is_no_site(check, tmp_path):
    assert "build the documentation first" in check.problems(tmp_path)[0]
    run = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "check_site.py"), str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 1
