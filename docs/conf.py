"""How Sphinx makes a site of these pages: `bash scripts/docs.sh`.

The pages are plain Markdown, which is read on GitHub as well. What only the site has is in
`index.md` (the start page and the navigation), `api.md` (docstrings) and `_site/`.
"""

import sys
from pathlib import Path

import promptclip

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "promptclip"
author = "The promptclip developers"
release = promptclip.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings of Google's form
    "docstrings",
    "named_files",
]
exclude_patterns = ["_site"]
myst_heading_anchors = 6  # links to headings, as GitHub has them
highlight_language = "text"  # of blocks that name none
smartquotes_action = "D"  # dashes alone: what is in quotes is to be typed as it stands

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True  # as they are written
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are told with their class

html_theme = "furo"
html_title = f"promptclip {release}"
html_static_path = ["_site/static"]
html_js_files = ["search.js"]
html_copy_source = False
html_use_index = html_domain_indices = False  # nothing leads there
html_show_copyright = False
