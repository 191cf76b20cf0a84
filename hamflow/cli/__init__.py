"""The command line: ``simulate``, ``film``, ``fit``, ``sample``, ``score``, ``rollout``, ``forecast`` and ``plot``.

Every error is one line on stderr: exit code 2 where the user can mend it, 1 where the computation failed, 130
where it was interrupted.
"""

from hamflow.cli.app import main

__all__ = ["main"]
