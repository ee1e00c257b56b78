"""Every script of examples/ runs on the demo's images, and uses public names only."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT
from postgres import postgres_folder, running_postgres

import ztcir_sdk
from ztcir_sdk.demo import file_names
from ztcir_sdk.drawings.drawings import demo_gallery, draw

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PRINTED = {
    "datasets_recipe.py": r"make it blue: (row \d+ 0\.\d{3}(, |\n)){3}as a dress: (row .+)\n",
    "embed_with_ray.py": r"(shard [1-4]: \d+ images\n){4}40 images are indexed\n",
    "fiftyone_recipe.py": r"(0\.\d{3} .+-01\.jpg\n){5}",
    "faiss_index.py": r"(.+-01\.jpg \+ .+: .+\.jpg 0\.\d{3}, .+\.jpg\n){2}",
    "lancedb_table.py": r"(0\.\d{3} blue-.+\.jpg\n){3}",
    "pgvector_database.py": r"(0\.\d{3} blue-.+\.jpg\n){3}",
    "qdrant_database.py": r"(0\.\d{3} blue-.+\.jpg\n){3}",
    "batch_queries.py": r"(.+-01\.jpg \+ make it (blue|black) -> .+\.jpg\n){20}",
    "index_and_search.py": r"40 images are indexed, \d+ of them are new\n(\d 0\.\d+ /.+\.jpg\n){5}",
    "many_texts_one_reference.py": r"/.+\.jpg\n(.+ -> .+\.jpg, .+\.jpg, .+\.jpg\n){3}",
    "shop_catalogue.py": r"like .+\.jpg, in stock:\n(  \d .+\.jpg \d+ EUR, [12] left\n){3}"
    r"the same in blue, under 40 EUR:\n(  \d .+\.jpg [123]\d EUR, [12] left\n){3}"
    r"and without stripes, page 2:\n(  [456] .+\.jpg [123]\d EUR, [12] left\n){3}",
    "vectors_for_your_database.py": r"(0\.\d{3} .+\.jpg\n){5}image tower: [0-9a-f]{32}\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The current folder: it has one image of each kind in the demo."""
    folder = tmp_path_factory.mktemp("examples")
    photos = folder / "ztcir-demo" / "photos"
    photos.mkdir(parents=True)
    gallery = demo_gallery(per_combination=1)
    for name, drawing in zip(file_names(gallery), gallery, strict=True):
        draw(drawing).save(photos / name)
    return folder


PACKAGES = {
    "datasets_recipe.py": "datasets",
    "embed_with_ray.py": "ray",
    "faiss_index.py": "faiss",
    "fiftyone_recipe.py": "fiftyone",
    "gradio_demo.py": "gradio",
    "lancedb_table.py": "lancedb",
    "pgvector_database.py": "pgvector",
    "qdrant_database.py": "qdrant_client",
}
"""Script -> the package that it is about; its own warnings are not ours."""


SLOW = ("embed_with_ray.py", "fiftyone_recipe.py")
"""Scripts that start servers of their own."""


def run(
    script: Path, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    warnings = [] if script.name in PACKAGES else ["-W", "error"]
    return subprocess.run(
        [sys.executable, *warnings, script, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )


def test_every_script_has_its_test() -> None:
    assert [script.name for script in SCRIPTS] == sorted([*PRINTED, "gradio_demo.py"])


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in sorted(PRINTED)],
)
def test_a_script_runs(name: str, folder: Path) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]} is not installed")
    with contextlib.ExitStack() as stack:
        variables: dict[str, str] = {}
        if name == "pgvector_database.py":
            pytest.importorskip("psycopg", reason="psycopg is not installed")
            commands = postgres_folder()
            if commands is None:
                pytest.skip("PostgreSQL with pgvector is not installed")
            variables["DATABASE_URL"] = stack.enter_context(running_postgres(commands))
        done = run(ROOT / "examples" / name, folder, **variables)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(PRINTED[name], done.stdout), done.stdout


@pytest.mark.slow
def test_the_gradio_demo_answers(folder: Path) -> None:
    pytest.importorskip("gradio_client", reason="gradio is not installed")
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[1])\n"
        "import gradio_demo, gradio_client\n"
        "page = gradio_demo.build()\n"
        "_, address, _ = page.launch(prevent_thread_lock=True, quiet=True)\n"
        "client = gradio_client.Client(address, verbose=False)\n"
        "print(len(client.predict(None, 'a red dress', '', 1, api_name='/search')))\n"
        "page.close(verbose=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "examples")],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "12"


def test_an_error_of_the_user_is_one_sentence(folder: Path) -> None:
    done = run(ROOT / "examples" / "index_and_search.py", folder, "no-such-folder")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no-such-folder" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_imports_public_names_only(script: Path) -> None:
    ours = {"ztcir_sdk", "train", "export", "cli", "benchmarks"}
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ours:
            assert node.module == "ztcir_sdk"
            assert {name.name for name in node.names} <= {*ztcir_sdk.__all__}
        if isinstance(node, ast.Import):
            assert not {name.name.partition(".")[0] for name in node.names} & ours


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_short(script: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60
