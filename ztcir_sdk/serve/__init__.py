"""The HTTP service and its page. Needs the extra `serve`."""

from __future__ import annotations
