"""The pages as a site: made without warnings and without the network, whole, seen in a browser."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import chromium
import grid_case
import pytest
from docs_pages import ROOT
from network_ban import forbid_network
from PIL import Image

DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS).with_suffix("") for page in DOCS.rglob("*.md"))
NEEDED = ("sphinx", "myst_parser", "furo")
METHOD = next(page for page in PAGES if page.parent.name == "methods")
# What a browser loads without being told to, by element
LOADED = {
    **{"script": ["src"], "img": ["src", "srcset"], "iframe": ["src"], "source": ["src", "srcset"]},
    **{"link": ["href"], "object": ["data"], "embed": ["src"], "video": ["src"], "audio": ["src"]},
}


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """As scripts/docs.sh does it."""
    for package in NEEDED:
        pytest.importorskip(package, reason="no site is made: pip install 'promptclip[docs]'")
    (line,) = re.findall(r"(?m)^python -m sphinx (.*?)-d", (ROOT / "scripts/docs.sh").read_text())
    environment = grid_case.environment()
    forbid_network(environment, out.parent / "ban", out.parent / "tried")
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *line.split(), "-d", out.parent / "read", "-c", DOCS,
         source, out],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(DOCS, folder / "site")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # urllib3 makes a socket, and throws it away, to find out whether this machine has IPv6
    tried = (folder / "tried").read_text() if (folder / "tried").exists() else ""
    assert all(line.startswith("socket.__new__ ") for line in tried.splitlines()), tried
    return folder / "site"


@dataclass
class Page(HTMLParser):
    """What a page links to, what it has its browser load, and the places in it."""

    file: Path
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.places |= {found["id"]} if "id" in found else set()
        self.loaded += [found[name] for name in LOADED.get(tag, ()) if name in found]
        self.loaded += re.findall(r"url\(([^)]*)\)", found.get("style", ""))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    found = {file.resolve(): Page(file) for file in sorted(site.rglob("*.html"))}
    assert len(found) > len(PAGES)
    return found


@pytest.fixture(scope="module")
def docstrings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "_site/docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def navigation() -> list[str]:
    """The entries of index.md, in their order; `*` stands for every page of a folder."""
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"(?ms)^```\{toctree\}\n(?:^:.*?\n)*\n(.*?)^```$", text)
    return [entry for tree in trees for entry in tree.split()]


def test_every_page_is_in_the_navigation_once() -> None:
    entries = [page for entry in navigation() for page in DOCS.glob(f"{entry}.md")]
    found = [page.relative_to(DOCS).with_suffix("") for page in entries]
    assert sorted([*found, Path("index")]) == PAGES
    assert navigation()[0] == "tutorial"


def test_docstrings_mean_code_and_nothing_else(docstrings: ModuleType) -> None:
    line = r"`a_` and |G_g|^2, *every* b_, <this>, `c*`; c:\d"
    assert docstrings.as_rest(line) == (
        r"``a_`` and \|G_g\|^2, \*every\* b\_, \<this\>, ``c*``; c:\\d"
    )
    assert docstrings.as_rest("    n_ctx: of [B, C], exp(-t d^2)") == (
        "    n_ctx: of [B, C], exp(-t d^2)"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("[a](nowhere.md)", "'nowhere.md'"),
        ("[a](#nowhere)", "'nowhere'"),
        ("![a](nowhere.png)", "nowhere.png"),
        ("```{nothing}\n```", "nothing"),
    ],
)
def test_a_warning_is_an_error(page: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(f"# Start\n\n{page}\n")
    done = build(tmp_path / "docs", tmp_path / "site")
    assert done.returncode == 1, done.stderr
    assert re.search(r"index\.md(\.rst)?:3: WARNING: ", done.stderr)
    assert said in done.stderr


@pytest.mark.slow
def test_names_of_files_are_links(tmp_path: Path) -> None:
    """In the site of a page: to pages, to files, to folders; not what is a word or elsewhere."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(
        """# Start

`trainers/coop.py` `scripts/coop/` `NOTICE` [yaml files](configs/datasets), [a file](train.py)

`datasets` `promptclip` `promptclip/assets/tiny-emoji.safetensors` `trainers/nothing.py`
`../secret.py` `.git/config` `output/site` [`trainers/dapt.py`](https://example.org)

    trainers/dapt.py
"""
    )
    done = build(tmp_path / "docs", tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    files = tmp_path / "site/files"
    links = [link for link in Page(tmp_path / "site/index.html").links if link[:6] == "files/"]
    assert links == [
        f"files/{name}.html"
        for name in ("trainers/coop.py", "scripts/coop", "NOTICE", "configs/datasets", "train.py")
    ]
    assert (files / "scripts/coop/dg.sh.html").is_file()
    assert "coop/dg.sh.html" in Page(files / "scripts/coop.html").links
    assert not (files / "trainers/dapt.py.html").exists()
    text = re.sub(r"<[^>]*>", "", (files / "trainers/coop.py.html").read_text())
    assert "class CoOpModel(PromptModel):" in text


@pytest.mark.slow
def test_the_sidebar_leads_to_every_page(site: Path, pages: dict[Path, Page]) -> None:
    links = [unquote(link) for link in pages[(site / "search.html").resolve()].links]
    assert [link for link in links if re.fullmatch(r"(?!index).*\.html", link)] == [
        f"{page.relative_to(DOCS).with_suffix('')}.html"
        for entry in navigation()
        for page in sorted(DOCS.glob(f"{entry}.md"))
    ]


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for file, page in pages.items():
        assert page.loaded, file
        for target in page.loaded:
            there = target.startswith("data:") or whither(site, file, target).is_file()
            assert there, f"{file} loads {target}"
    styles = sorted(site.rglob("*.css"))
    assert len(styles) > 3
    for style in styles:
        for target in re.findall(r"url\(\s*[\"']?([^\"')]*)", style.read_text(encoding="utf-8")):
            there = target.startswith("data:") or whither(site, style, target).is_file()
            assert there, f"{style} loads {target}"
        assert "@import" not in style.read_text(encoding="utf-8")


def whither(site: Path, file: Path, target: str) -> Path:
    """The file that an address in another leads to, which must be in the site."""
    parts = urlsplit(target)
    assert not parts.scheme, f"{file}: {target}"
    assert not parts.netloc, f"{file}: {target}"
    path = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    assert path.is_relative_to(site.resolve()), f"{file}: {target}"
    return path


@pytest.mark.slow
def test_links_lead_to_pages_and_places(site: Path, pages: dict[Path, Page]) -> None:
    inside = 0
    for file, page in pages.items():
        for target in page.links:
            if urlsplit(target).scheme in ("http", "https"):
                continue
            path = whither(site, file, target)
            assert path in pages, f"{file} links to {target}"
            place = unquote(urlsplit(target).fragment)
            assert not place or place in pages[path].places, f"{file} links to {target}"
            inside += 1
    assert inside > 1000


@pytest.mark.slow
def test_the_start_page_is_the_readme(site: Path, pages: dict[Path, Page]) -> None:
    links = pages[(site / "index.html").resolve()].links
    assert {"tutorial.html", "results.html", "methods/dapt.html"} <= set(links)
    assert {"files/trainers/dapt.py.html", "files/constraints.txt.html"} <= set(links)
    heads = re.findall(r"<h1>(.*?)<", (site / "index.html").read_text(encoding="utf-8"))
    assert heads[0] == "promptclip"


@pytest.mark.slow
def test_the_python_interface_has_its_docstrings(site: Path, pages: dict[Path, Page]) -> None:
    assert {
        "promptclip.load",
        "promptclip.predictor.Predictor.predict",
        "promptclip.trainer.PromptTrainer.losses",
        "promptclip.losses.inter_dispersion",
        "promptclip.regularizers.Regularizer.terms",
    } <= pages[(site / "api.html").resolve()].places
    text = re.sub(r"<[^>]*>", "", (site / "api.html").read_text(encoding="utf-8"))
    assert "G_d - lambda (G_d . G_g) / |G_g|^2 G_g where" in text
    assert "Whether the image tower is asked without prompts only: its features are any" in text


@pytest.mark.slow
@chromium.needs_chromium
@pytest.mark.parametrize(
    "name", ["index", METHOD.as_posix(), "errors", "report", "api", "files/trainers/coop.py"]
)
def test_a_phone_shows_it_and_asks_nobody(site: Path, name: str) -> None:
    page = site / f"{name}.html"
    found = chromium.measured(page, 390)
    assert (found["width"], found["overflow"]) == (390, 0)
    assert all(there and 200 < width <= 390 for there, _, width in found["pictures"])
    assert chromium.console(page) == []
    assert chromium.asked_for(page) == set()


@pytest.mark.slow
@chromium.needs_chromium
@pytest.mark.parametrize("name", ["index", "files/trainers/coop.py"])
def test_it_is_dark_where_the_system_is(site: Path, name: str, tmp_path: Path) -> None:
    shades = []
    for scheme in (0, 1):  # dark, light
        picture = tmp_path / f"{scheme}.png"
        flags = (f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
        chromium.run(site / f"{name}.html", *flags)
        with Image.open(picture) as shown:
            shades.append(shown.convert("L").getpixel((5, shown.height - 5)))
    dark, light = shades
    assert dark < 60
    assert light > 230


@pytest.mark.slow
@chromium.needs_chromium
def test_a_search_finds_pages_from_the_disk(site: Path) -> None:
    page = site / "searched.html"
    page.write_text('<script>location = "search.html?q=neural+collapse"</script>')
    shown = chromium.run(page, "--dump-dom", "--virtual-time-budget=20000").stdout
    found = shown.partition('id="search-results"')[2]
    assert 'href="methods/npt.html' in found
    assert chromium.console(page) == []
