"""The ``hamflow`` command: its verbs, and how errors become exit codes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hamflow.cli.density import sample, score
from hamflow.cli.dynamics import rollout, simulate
from hamflow.cli.fit import fit
from hamflow.cli.plot import plot
from hamflow.cli.videos import film, forecast
from hamflow.errors import CheckpointError, FitError, InputError, RolloutError, SolveError

# The ancestor of all of typer's usage errors; which package it comes from depends on the version of typer.
_ClickError: Any = typer.BadParameter.__mro__[2]

_INTERRUPTED = 130

app = typer.Typer(
    help="Neural Hamiltonian Flows for tables, learned dynamics for trajectories, and what moves in videos.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verb in (simulate, film, fit, sample, score, rollout, forecast, plot):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"hamflow {version('hamflow')}")
        except PackageNotFoundError:  # a source tree that was never installed
            print("hamflow 0+unknown")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Neural Hamiltonian Flows for tables, learned dynamics for trajectories, and what moves in videos."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for an error of the user's, 1 for a failed computation.

    130 after an interrupt.
    """
    with warnings.catch_warnings():
        # A line without the place in the source, which says nothing in a shell.
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    try:
        # Some versions of typer raise an interrupt, others make it the exit code.
        code = app(args=None if argv is None else list(argv), prog_name="hamflow", standalone_mode=False)
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted; a fit with --checkpoint goes on from there when it is run again", _INTERRUPTED)
    except _ClickError as error:
        return _fail(f"{error.format_message()} (hamflow --help shows what is possible)", 2)
    except (InputError, CheckpointError) as error:
        return _fail(str(error), 2)
    except (FitError, SolveError, RolloutError, MemoryError) as error:
        return _fail(str(error) or "out of memory", 1)
    except OSError as error:
        return _fail(f"{error.filename or 'file'}: {error.strerror or error}", 2)
    return code if isinstance(code, int) else 0


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"hamflow: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str, code: int) -> int:
    print(f"hamflow: error: {' '.join(message.split())}", file=sys.stderr)
    return code
