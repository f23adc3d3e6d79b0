"""Names of this repository's files become links: to their pages, or to their text.

The pages name files as `docs/grid.md` or `trainers/coop.py`, from the top of the repository, or
link to them, as in `[this](../configs)`. What is no page is put into the site as text, so that it
needs no repository.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from string import Template
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
FOLDERS = {"benchmarks", "configs", "datasets", "docs", "promptclip", "runtime", "scripts", "tests",
           "trainers"}  # fmt: skip
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".toml": "toml", ".md": "markdown"}
FILES = "files"  # the folder of the site


def is_text(path: Path) -> bool:
    """Whether a file is one that can be read."""
    try:
        return bool(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False


def in_repository(name: str) -> str | None:
    """The plain path, from the top, of what has this name; None if nothing there has it."""
    if not re.fullmatch(r"[\w./-]{1,200}", name):
        return None
    plain = posixpath.normpath(name)
    first, *further = plain.split("/")
    path = ROOT / plain
    if first in FOLDERS and path.is_dir():
        return plain
    ours = first in FOLDERS if further else not first.startswith(".")
    return plain if ours and is_text(path) else None


class FindNamed(SphinxTransform):
    """In a page, before Sphinx takes links to files for downloads."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Put each name and each link into a reference that is resolved below."""
        docname = self.env.docname
        # The start page is README.md, which lies at the top
        folder = "" if docname == self.config.root_doc else f"docs/{posixpath.dirname(docname)}"
        links = (addnodes.download_reference, addnodes.pending_xref, nodes.reference, nodes.title)
        for literal in list(self.document.findall(nodes.literal)):
            parent: Any = literal.parent
            while parent is not None and not isinstance(parent, links):
                parent = parent.parent
            text = literal.astext()
            named = "/" in text or "." in text or text.isupper()  # `datasets` is a word as well
            if parent is None and named and (path := in_repository(text)):
                literal.replace_self(_reference(docname, path, [literal.deepcopy()]))
        for link in list(self.document.findall(lambda node: isinstance(node, links[:2]))):
            if link.get("refdomain") is None and link.get("reftype") == "myst":
                name = posixpath.join(folder, link["reftarget"].partition("#")[0])
                if path := in_repository(name):
                    link.replace_self(_reference(docname, path, link.children))


def _reference(docname: str, path: str, content: list[Any]) -> nodes.Element:
    return addnodes.pending_xref(
        "", *content, refdomain="", reftype="repository", reftarget=path, refdoc=docname
    )


class NamedFiles:
    """Resolves these references, and writes a page for each file and folder that has one.

    The pages are plain, without the theme's navigation: with it they would be most of the site,
    and of the time to build it.

    Args:
        app: what builds the site.
    """

    def __init__(self, app: Sphinx) -> None:
        self.shown: set[str] = set()
        self.template = Template((DOCS / "_site" / "file.html").read_text(encoding="utf-8"))
        app.connect("missing-reference", self.resolve)
        app.connect("build-finished", self.write)

    def resolve(
        self, app: Sphinx, env: Any, node: addnodes.pending_xref, content: nodes.Element
    ) -> nodes.reference | None:
        """A link to the page of a file; None if it is no reference of ours."""
        if node["reftype"] != "repository":
            return None
        uri = app.builder.get_relative_uri(node["refdoc"], self._page(app, node["reftarget"]))
        return nodes.reference("", "", *node.children, internal=True, refuri=uri)

    def _page(self, app: Sphinx, path: str) -> str:
        if path == "README.md":
            return str(app.config.root_doc)
        docname = path.removeprefix("docs/").removesuffix(".md")
        if path == f"docs/{docname}.md" and docname in app.env.found_docs:
            return docname
        self.shown.add(path)
        if (ROOT / path).is_dir():
            inside = (f"{path}/{name}" for name in _names(path))
            self.shown |= {name for name in inside if is_text(ROOT / name)}
        return f"{FILES}/{path}"

    def write(self, app: Sphinx, fault: Exception | None) -> None:
        """Of all that was linked."""
        for path in sorted(self.shown) if fault is None else ():
            page = self.template.substitute(
                title=html.escape(f"{path} - {app.config.html_title}"),
                path=html.escape(path),
                top="../" * (path.count("/") + 1),
                body=self._listing(path) if (ROOT / path).is_dir() else _text(app, path),
            )
            file = Path(app.outdir, FILES, f"{path}.html")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(page, encoding="utf-8")

    def _listing(self, path: str) -> str:
        rows = []
        for name in _names(path):
            text = html.escape(name)
            if f"{path}/{name}" in self.shown:
                text = f'<a href="{posixpath.basename(path)}/{text}.html">{text}</a>'
            rows.append(f"<li>{text}</li>")
        return "<ul>\n{}\n</ul>".format("\n".join(rows))


def _names(folder: str) -> list[str]:
    names = sorted(entry.name for entry in (ROOT / folder).iterdir())
    return [name for name in names if not name.startswith((".", "__pycache__"))]


def _text(app: Sphinx, path: str) -> str:
    language = LANGUAGES.get(Path(path).suffix, "text")
    builder: Any = app.builder  # one of HTML
    text = (ROOT / path).read_text(encoding="utf-8")
    return str(builder.highlighter.highlight_block(text, language, force=True, linenos="inline"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Both halves; the second needs one process, in which all pages are written."""
    app.add_transform(FindNamed)
    NamedFiles(app)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
