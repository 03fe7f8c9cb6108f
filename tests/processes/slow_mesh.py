"""The `mesh` command, of which a node sends blobs at 2 MB a second."""

from __future__ import annotations

from functools import partial
from unittest.mock import patch

from mesh import Node
from mesh.cli.main import main

UPLOAD_LIMIT = 2_000_000.0

if __name__ == "__main__":
    with patch("mesh.cli.up.Node", partial(Node, upload_limit=UPLOAD_LIMIT)):
        main()
