"""The ``mesh`` command, for which Ctrl-C is no failure, not even while its modules are read."""

from __future__ import annotations

import sys
from typing import NoReturn

INTERRUPTED = 130


def main() -> NoReturn:
    """Run it."""
    try:
        from mesh.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()
