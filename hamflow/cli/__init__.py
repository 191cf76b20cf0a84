"""The command line: ``hamflow simulate``, ``fit``, ``sample``, ``score``, ``rollout`` and ``plot``.

Every error is one line on stderr: exit code 2 where the user can mend it, 1 where the computation failed.
"""

from hamflow.cli.app import main
from hamflow.cli.runs import write_run

__all__ = ["main", "write_run"]
