"""What is installed: the wheel's content, its version, and an SDK that needs no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from ztcir_sdk import Bundle
from ztcir_sdk.version import __version__

ROOT = Path(__file__).resolve().parents[1]
CHECK = ROOT / ".ci" / "check_wheel.py"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check_wheel = load_script("check_wheel")
project_urls = load_script("project_urls")


# --- the wheel -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a checkout holds, with something lying about that must not be installed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    copy = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    for stray in ("runs/map/stray.py", "dist/stray.py", "client/stray.py", "photos/stray.json"):
        (copy / stray).parent.mkdir(parents=True, exist_ok=True)
        (copy / stray).write_text("")
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """The wheel of that copy, built offline."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    done = subprocess.run(
        [*build, "--outdir", source / "wheels", source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [made] = (source / "wheels").iterdir()
    return made


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel: Path, source: Path) -> None:
    assert check_wheel.problems(wheel, source) == []
    assert wheel.name == f"ztcir-{__version__}-py3-none-any.whl"
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert top == {"ztcir_sdk", "train", "export", "cli", f"ztcir-{__version__}.dist-info"}


def test_the_bundle_survives_packing(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    packed = Bundle.load(tmp_path / "ztcir_sdk" / "bundles" / "fashion-lite")
    assert packed.fingerprint == Bundle.embedded().fingerprint
    card = packed.manifest.model_card
    assert {"data", "weights", "quality", "limits"} <= card.keys()
    for source in (*card["data"], *card["weights"]):
        assert source["licence"]


# --- what checks the wheel: each fault is found --------------------------------------------------

SOUND = {
    "cli/__init__.py": "",
    "export/__init__.py": "",
    "train/__init__.py": "",
    "train/configs/a/b.json": "{}",
    "ztcir_sdk/version.py": '__version__ = "1.2.3"\n',
    "ztcir_sdk/py.typed": "",
    "ztcir_sdk/bundles/fashion-lite/text.onnx": "graph",
    "ztcir_sdk/bundles/fashion-lite/bundle.json": json.dumps(
        {"files": {"text.onnx": {"sha256": hashlib.sha256(b"graph").hexdigest()}}}
    ),
}
INFO = "ztcir-1.2.3.dist-info"
SOUND_INFO = {
    f"{INFO}/METADATA": "Name: ztcir\nVersion: 1.2.3\nLicense-Expression: Apache-2.0\n"
    "Requires-Dist: numpy\nRequires-Dist: torch; extra == 'train'\n\n# ztcir\n",
    f"{INFO}/entry_points.txt": "[console_scripts]\nztcir = ztcir_sdk.command:main\n",
    f"{INFO}/licenses/LICENSE": "Apache License",
    f"{INFO}/RECORD": "",
}


def problems_of(folder: Path, change: Callable[[dict[str, str]], object]) -> list[str]:
    """What the check says of a sound wheel, changed."""
    for name, text in SOUND.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    packed = {name: text for name, text in SOUND.items() if "/" in name} | SOUND_INFO
    change(packed)
    with zipfile.ZipFile(folder / "x.whl", "w") as archive:
        for name, text in packed.items():
            archive.writestr(name, text)
    found = check_wheel.problems(folder / "x.whl", folder)
    assert isinstance(found, list)
    return found


def replaced(name: str, old: str, new: str) -> Callable[[dict[str, str]], object]:
    return lambda packed: packed.update({name: packed[name].replace(old, new)})


BUNDLE = "ztcir_sdk/bundles/fashion-lite"
FAULTS: Mapping[str, tuple[Callable[[dict[str, str]], object], str]] = {
    "another package": (lambda p: p.update({"benchmarks/__init__.py": ""}), "benchmarks"),
    "a module at the top": (lambda p: p.update({"setup.py": ""}), "setup.py"),
    "a package lost": (lambda p: p.pop("cli/__init__.py"), "cli"),
    "a stray file": (lambda p: p.update({"train/notes.txt": ""}), "train/notes.txt"),
    "bytecode": (lambda p: p.update({"cli/__pycache__/a.pyc": ""}), "a.pyc"),
    "data lost": (lambda p: p.pop("train/configs/a/b.json"), "train/configs/a/b.json"),
    "types lost": (lambda p: p.pop("ztcir_sdk/py.typed"), "ztcir_sdk/py.typed"),
    "no bundle": (lambda p: p.pop(f"{BUNDLE}/bundle.json"), "bundle"),
    "a graph lost": (lambda p: p.pop(f"{BUNDLE}/text.onnx"), "text.onnx"),
    "a graph altered": (replaced(f"{BUNDLE}/text.onnx", "graph", "else"), "text.onnx"),
    "a bundle too large": (
        lambda p: p.update({f"{BUNDLE}/more.onnx": "x" * 48_000_001}),
        "over 48",
    ),
    "another version": (replaced(f"{INFO}/METADATA", "1.2.3", "1.2.4"), "1.2.4"),
    "a stale __version__": (replaced("ztcir_sdk/version.py", "1.2.3", "1.2.2"), "__version__"),
    "another licence": (replaced(f"{INFO}/METADATA", "Apache-2.0", "MIT"), "MIT"),
    "no licence text": (lambda p: p.pop(f"{INFO}/licenses/LICENSE"), "licence's text"),
    "no README": (replaced(f"{INFO}/METADATA", "# ztcir\n", ""), "README"),
    "no command": (replaced(f"{INFO}/entry_points.txt", "ztcir_sdk", "other"), "command"),
    "torch for all": (replaced(f"{INFO}/METADATA", "; extra == 'train'", ""), "requires torch"),
    "two distributions": (lambda p: p.update({"a-1.dist-info/RECORD": ""}), "one dist-info"),
}


def test_the_check_passes_a_sound_wheel(tmp_path: Path) -> None:
    assert problems_of(tmp_path, lambda packed: None) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_finds(fault: str, tmp_path: Path) -> None:
    change, word = FAULTS[fault]
    found = problems_of(tmp_path, change)
    assert found
    assert all(word in problem for problem in found), found


def test_the_check_fails_a_build(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr(f"{INFO}/METADATA", "Name: other\n\n")
    done = subprocess.run([sys.executable, CHECK, tmp_path / "x.whl"], capture_output=True)
    assert done.returncode == 1
    assert b"the package cli is missing" in done.stderr


# --- version and licence -------------------------------------------------------------------------


def test_the_version_has_one_home_and_is_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'version = { attr = "ztcir_sdk.version.__version__" }' in project
    assert not re.search(r'^version = "', project, re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert next(name for name in sections if name != "Unreleased") == __version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [__version__]
    done = run_without([], "from cli.main import main; main(['--version'])")
    assert done.stdout == f"ztcir {__version__}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="a script of bash")
def test_release_notes_are_one_section_of_the_changelog() -> None:
    def notes(version: str) -> subprocess.CompletedProcess[str]:
        script = ROOT / ".ci" / "release_notes"
        return subprocess.run([script, version], capture_output=True, text=True)

    done = notes(__version__)
    assert done.returncode == 0
    assert "### Added" in done.stdout
    assert "\n## " not in done.stdout
    assert notes("0.0.0").returncode == 1


def test_a_release_names_its_repository() -> None:
    """Until then no file holds an address, since the project is on no public host yet."""
    before = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "[project.urls]" not in before
    after = project_urls.with_urls(before, "https://host.example/owner/name")
    assert after.startswith(before)
    added = re.findall(r'^(\w+) = "(https://host\.example/owner/name.*)"$', after, re.MULTILINE)
    names = ["Homepage", "Documentation", "Repository", "Issues", "Changelog"]
    assert [name for name, _ in added] == names


def test_hosted_workflows_run_every_python_that_is_declared() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    [matrix] = re.findall(r"^ +python: \[(.*)\]$", workflow, re.MULTILINE)
    assert re.findall(r"3\.\d+", matrix) == declared
    assert f'requires-python = ">={declared[0]}"' in project


def test_the_licence_is_apaches_own_text() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    # of https://www.apache.org/licenses/LICENSE-2.0.txt
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


# --- an SDK that stands alone --------------------------------------------------------------------


def run_without(packages: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code where some packages are not installed."""
    blocked = f"import sys\nfor name in {packages!r}: sys.modules[name] = None\n"
    return subprocess.run(
        [sys.executable, "-c", blocked + code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_every_module_of_the_sdk_loads_where_it_stands_alone() -> None:
    """Beside what its own dependencies bring: no runtime, nothing of training, no other room."""
    absent = ["torch", "torchvision", "open_clip", "timm", "onnx", "onnxscript", "safetensors"]
    absent += ["onnxruntime", "tensorrt", "tensorrt_rtx", "webdataset", "tqdm", "pandas"]
    absent += ["train", "export", "cli", "benchmarks"]
    code = (
        "import importlib, pkgutil, ztcir_sdk\n"
        "found = list(pkgutil.walk_packages(ztcir_sdk.__path__, 'ztcir_sdk.'))\n"
        "for module in found: importlib.import_module(module.name)\n"
        "print(len(found))\n"
    )
    done = run_without(absent, code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
