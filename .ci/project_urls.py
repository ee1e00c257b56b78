"""Write the project's addresses into pyproject.toml, before a release is built.

    python .ci/project_urls.py https://HOST/OWNER/NAME

The addresses are those of the repository that releases, so they are in no file before that.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def with_urls(project: str, repository: str) -> str:
    """Return the text of pyproject.toml with ``[project.urls]``."""
    pages = {
        "Homepage": "",
        "Documentation": "/tree/main/docs",
        "Repository": "",
        "Issues": "/issues",
        "Changelog": "/blob/main/CHANGELOG.md",
    }
    lines = [f'{name} = "{repository}{page}"' for name, page in pages.items()]
    return project + "\n".join(["", "[project.urls]", *lines, ""])


if __name__ == "__main__":
    text = PROJECT.read_text(encoding="utf-8")
    PROJECT.write_text(with_urls(text, sys.argv[1]), encoding="utf-8")
