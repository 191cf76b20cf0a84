"""Sphinx configuration: furo, notebooks in Markdown that run during the build, the API from docstrings."""

import re
from importlib.metadata import version as installed_version

project = "hamflow"
author = "hamflow developers"
copyright = "2026, hamflow developers"
version = release = installed_version("hamflow")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"hamflow {version}"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# Every example runs in every build: a cache would hide an example that a change of the code has broken.
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_in_temp = True
# Progress bars go to stderr and read badly on a page.
nb_output_stderr = "remove"

# A name stands both in the facade and in its own module: a link may lead to either.
suppress_warnings = ["ref.python"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": True}


# Docstrings write shapes plainly, as in (*batch, d), which reStructuredText would read as the start of an emphasis.
CODE_OR_SHAPE = re.compile(r"``.*?``|`[^`]+`|\((?:[^()`]*, )?\*\w[^()]*\)")


def set_shapes_as_code(app, what, name, obj, options, lines):
    """Put shapes into double backticks, except where they stand in code already."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[i] = CODE_OR_SHAPE.sub(lambda m: m[0] if m[0].startswith("`") else f"``{m[0]}``", line)


def setup(app):
    app.connect("autodoc-process-docstring", set_shapes_as_code)
