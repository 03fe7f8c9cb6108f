"""A directory that a command makes for a node: it goes again if nothing came of it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mesh.errors import DataDirInUse


@contextlib.contextmanager
def undone_if_new(
    home: Path, needed: Callable[[BaseException], bool] = lambda failure: False
) -> Iterator[Callable[[], None]]:
    """Leave nothing of ``home`` behind after a failure, if it was not there before. Yields what to call once
    it is to stay.

    Args:
        needed: whether it is to stay after this failure.
    """
    made = [path for path in (home, *home.parents) if not path.exists()]
    try:
        yield made.clear
    except BaseException as error:
        if made and not isinstance(error, DataDirInUse) and not needed(error):
            shutil.rmtree(home, ignore_errors=True)
            with contextlib.suppress(OSError):  # others have something there
                for parent in made[1:]:
                    parent.rmdir()
        raise
