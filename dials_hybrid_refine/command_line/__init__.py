"""The commands."""

from __future__ import annotations

import os

# torch reads it when it is imported. That a process was lost is told in one sentence; its network library adds
# a stack of its own
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
