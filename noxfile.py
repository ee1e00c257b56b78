"""Checks to run by name: `nox -s quick` before a commit, `nox -s full` before a merge.

Sessions run in the current environment (`pip install -e '.[cpu,train,dev,docs]'`), but for `full`,
which makes fresh ones.
"""

from __future__ import annotations

import subprocess

import nox

nox.options.sessions = ["quick"]
nox.options.default_venv_backend = "none"

SLOWEST = (
    "test_demo.py",
    "test_drawings.py",
    "test_real_collections.py",
    "test_speed.py",
    "milvus",
)
QUICK_TESTS = (
    *("tests/sdk", "tests/test_architecture.py", "tests/test_docs.py"),
    *(f"--ignore=tests/sdk/{name}" for name in (*SLOWEST, "index/test_storage_and_faults.py")),
)
"""Tests that need neither training, an export nor the command line, without the slowest of them."""


@nox.session
def quick(session: nox.Session) -> None:
    """Check style, types, imports and the fast tests, in under a minute on two cores."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("codespell")
    # mypy uses one core only, so it runs beside the tests
    with subprocess.Popen(["mypy"], stdout=subprocess.PIPE, text=True) as mypy:
        try:
            session.run("pytest", "-n", "2", *QUICK_TESTS)
        finally:
            session.log("mypy: %s", mypy.communicate()[0])
    if mypy.returncode:
        session.error("mypy found errors")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site in site/, with the API reference from the docstrings."""
    session.run("mkdocs", "build", "--strict")


@nox.session
def full(session: nox.Session) -> None:
    """Run every check in fresh environments, in under half an hour."""
    session.run(".ci/run", external=True)
