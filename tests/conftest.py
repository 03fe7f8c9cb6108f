from __future__ import annotations

import os

from hypothesis import settings

# How long an example takes depends on what else the machine does.
settings.register_profile("mesh", deadline=None)
# What lands is judged by the same examples every time; new ones are looked for everywhere else.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "mesh")
