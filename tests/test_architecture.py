"""The house stays as it was planned: arrows point down, files stay small, heavy libraries load late."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hamflow"
MAX_LINES = 350


def test_imports_point_down(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out


def test_no_room_imports_the_facade() -> None:
    """hamflow/__init__.py gathers what the rooms offer, so a room that imports it makes a circle."""
    graph = grimp.build_graph("hamflow", cache_dir=None)
    assert graph.find_modules_that_directly_import("hamflow") <= {"hamflow.cli"}


def test_files_stay_small() -> None:
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert lengths, f"no Python file under {PACKAGE}"
    assert not {str(path): n for path, n in lengths.items() if n > MAX_LINES}


def test_files_are_named_after_a_concept() -> None:
    vague = {"util", "utils", "helpers", "common", "misc"}
    assert not [path for path in PACKAGE.rglob("*") if path.stem in vague]


@pytest.mark.parametrize("library", ["zuko", "nflows", "typer", "seaborn", "sklearn", "pandas"])
def test_import_is_lazy(library: str) -> None:
    """`import hamflow` waits for nothing heavy, and zuko, for one, changes torch's settings for the whole process."""
    code = f"import sys, hamflow; sys.exit({library!r} in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr or f"import hamflow has loaded {library}"
