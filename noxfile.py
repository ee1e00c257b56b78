"""Checks to run by name: `nox -s quick` before a commit, `nox -s full` before a merge.

Sessions run in the current environment (`pip install -e '.[cpu,train,dev,docs]'`), but for `full`,
which makes fresh ones.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["quick"]
nox.options.default_venv_backend = "none"

QUICK_TESTS = (
    *("tests/sdk", "tests/cli", "tests/test_architecture.py", "tests/test_docs.py"),
    "--ignore=tests/cli/test_help_examples.py",
    *(f"--ignore=tests/sdk/test_{name}.py" for name in ("demo", "drawings", "tokenizer")),
)
"""Tests that need neither training nor an export, without the slowest of them."""


@nox.session
def quick(session: nox.Session) -> None:
    """Check style, types, imports and the fast tests, in under a minute on two cores."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("codespell")
    session.run("pytest", "-n", "2", *QUICK_TESTS)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site in site/, with the API reference from the docstrings."""
    session.run("mkdocs", "build", "--strict")


@nox.session
def full(session: nox.Session) -> None:
    """Run every check in fresh environments, in under half an hour."""
    session.run(".ci/run", external=True)
