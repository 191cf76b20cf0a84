"""Every Python example in the README and the documentation runs, page by page, in one namespace a page."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hamflow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = re.compile(r"^```(?:python|\{code-cell\}[^\n]*)\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
# The options of a code cell: ":tags: [hide-input]" lines or a block between "---" lines.
OPTIONS = re.compile(r"\A(?:---\n.*?^---\n|(?::[\w-]+:[^\n]*\n)+)", re.MULTILINE | re.DOTALL)
LINKS = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)(?P<target>[^)#\s]+)")


def examples(page: Path) -> list[tuple[int, str]]:
    """The examples of a page, each with the number of the line on which its code starts."""
    text = page.read_text()
    found = []
    for match in EXAMPLES.finditer(text):
        code, start = match["code"], match.start("code")
        options = OPTIONS.match(code)
        skip = options.end() if options else 0
        found.append((text.count("\n", 0, start + skip) + 1, code[skip:]))
    return found


def test_examples_are_found(tmp_path: Path) -> None:
    """The extraction itself: both kinds of block, options stripped, line numbers right, other languages left alone."""
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n```python\na = 1\n```\n```console\n$ make\n```\n"
        "```{code-cell} ipython3\n:tags: [hide-input]\n\nb = 2\n```\n"
        "```{code-cell}\n---\ntags: [x]\n---\nc = 3\n```\n"
    )
    assert examples(page) == [(3, "a = 1\n"), (10, "\nb = 2\n"), (17, "c = 3\n")]


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in examples(page):
        # Blank lines in front make a traceback show the page's own line numbers.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)


@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
def test_page_has_an_example(name: str) -> None:
    assert examples(ROOT / name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [match["target"] for match in LINKS.finditer(page.read_text())]
    assert not [target for target in targets if not (page.parent / target).exists()]


#: What a function of the same page returns or the user's class derives from, and shows in the example of that;
#: what needs files that are not shipped; what models share among themselves; the entry point of the command line.
WITHOUT_EXAMPLE = {
    *("Trend", "History", "Quadrature", "StartingMixture", "Terms", "Inertia"),
    *("EnergyReport", "LagrangianReport", "StepReport", "ConstrainedReport", "FlowReport"),
    *("Energy", "Hamiltonian", "Lagrangian", "MassMatrix", "Force", "Constraint", "PairEnergy", "Step", "System"),
    *("load_double_pendulum", "load_experimental_pendulum", "load_pendulum", "load_spring"),
    *("check_settings", "fingerprint", "random_generator", "seeded"),
    "main",
}


def public() -> Iterator[tuple[str, object]]:
    """Every function and class that the package and the packages in it offer, except errors."""
    packages = [info.name for info in pkgutil.walk_packages(hamflow.__path__, "hamflow.") if info.ispkg]
    for package in map(importlib.import_module, ["hamflow", *packages]):
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isfunction(value) or (inspect.isclass(value) and not issubclass(value, Exception)):
                yield name, value


def test_everything_public_has_an_example() -> None:
    found = dict(public())
    assert found.keys() >= WITHOUT_EXAMPLE, "an exception that is none any more"
    assert {"NHF", "rollout", "check_step", "plot_history"} <= found.keys()
    lacking = {name for name, value in found.items() if ">>> " not in (inspect.getdoc(value) or "")}
    assert lacking == WITHOUT_EXAMPLE
