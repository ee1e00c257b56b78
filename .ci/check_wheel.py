"""Check that a wheel holds the four packages with their data and the licence, and nothing else.

    python .ci/check_wheel.py dist/ztcir-0.1.0-py3-none-any.whl

Needs the standard library alone. Compares with the checkout it stands in.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Mapping
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cli", "export", "train", "ztcir_sdk")
FONTS = "ztcir_sdk/pages/fonts/"
PAGE = "ztcir_sdk/serve/page/"
DATA = (
    r"ztcir_sdk/modification/(known|foreign)_words\.txt|train/(configs/.+\.json|tags/[a-z]+\.txt)"
)
BUNDLES = "ztcir_sdk/bundles/"
DEFAULT = f"{BUNDLES}fashion-lite/"
MAX_BYTES = 48_000_000
"""Size of the default bundle on a disk."""
ONLY_IN_EXTRAS = {
    *("torch", "torchvision", "open-clip-torch", "timm", "transformers", "safetensors"),
    *("onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13"),
}


def problems(wheel: Path, root: Path = ROOT) -> list[str]:
    """Return what is wrong with a wheel of the checkout `root`, a sentence each."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    infos = {name.split("/")[0] for name in files if ".dist-info/" in name}
    if len(infos) != 1:
        return [f"there must be one dist-info, not {sorted(infos)}"]
    [info] = infos
    return [
        *_strangers(files, info),
        *_missing(files, root),
        *_bundle_problems(files),
        *_metadata_problems(files, info, root),
    ]


def _strangers(files: Mapping[str, bytes], info: str) -> list[str]:
    top = {name.split("/")[0] for name in files}
    wrong = [f"{name} does not belong at the top" for name in sorted(top - {*PACKAGES, info})]
    wrong += [f"the package {name} is missing" for name in sorted(set(PACKAGES) - top)]
    for name in sorted(files):
        known = name.startswith((f"{info}/", BUNDLES, FONTS, PAGE)) or name.endswith(
            (".py", "/py.typed")
        )
        if not known and not re.fullmatch(DATA, name):
            wrong.append(f"{name} is no module and no data that a package needs")
    return wrong


def _missing(files: Mapping[str, bytes], root: Path) -> list[str]:
    """Find modules, and other files of the packages, that the build has left out."""
    there = {
        path.relative_to(root).as_posix()
        for package in PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    return [f"{name} of the checkout is missing" for name in sorted(there - files.keys())]


def _bundle_problems(files: Mapping[str, bytes]) -> list[str]:
    if f"{DEFAULT}bundle.json" not in files:
        return [f"the default bundle is missing: no {DEFAULT}bundle.json"]
    records = json.loads(files[f"{DEFAULT}bundle.json"])["files"]
    wrong = []
    for name, record in records.items():
        data = files.get(f"{DEFAULT}{name}")
        if data is None:
            wrong.append(f"the default bundle's {name} is missing")
        elif hashlib.sha256(data).hexdigest() != record["sha256"]:
            wrong.append(f"the default bundle's {name} is not the file that was exported")
    size = sum(len(data) for name, data in files.items() if name.startswith(DEFAULT))
    if size > MAX_BYTES:
        wrong.append(f"the default bundle has {size / 1e6:.1f} MB, over {MAX_BYTES / 1e6:.0f}")
    return wrong


def _metadata_problems(files: Mapping[str, bytes], info: str, root: Path) -> list[str]:
    metadata = Parser().parsestr(files[f"{info}/METADATA"].decode())
    version = _version(root)
    wrong = []
    if (metadata["Name"], metadata["Version"]) != ("ztcir", version):
        wrong.append(f"it is {metadata['Name']} {metadata['Version']}, not ztcir {version}")
    if f'__version__ = "{version}"' not in files.get("ztcir_sdk/version.py", b"").decode():
        wrong.append(f"ztcir_sdk.__version__ is not {version}")
    if metadata["License-Expression"] != "Apache-2.0":
        wrong.append(f"its licence is {metadata['License-Expression']}, not Apache-2.0")
    if b"Apache License" not in files.get(f"{info}/licenses/LICENSE", b""):
        wrong.append("the licence's text is missing")
    if not metadata.get_payload():
        wrong.append("the README is not its description")
    if b"ztcir = ztcir_sdk.command:main" not in files.get(f"{info}/entry_points.txt", b""):
        wrong.append("the command ztcir is missing")
    for requirement in metadata.get_all("Requires-Dist", []):
        name = re.match(r"[\w.-]+", requirement)
        if (
            name
            and name[0].lower().replace("_", "-") in ONLY_IN_EXTRAS
            and "extra ==" not in requirement
        ):
            wrong.append(f"it requires {name[0]}, which only an extra may")
    return wrong


def _version(root: Path) -> str:
    text = (root / "ztcir_sdk/version.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("ztcir_sdk/version.py has no version.")
    return found[1]


def main() -> int:
    """Print what is wrong; exit with 1 if anything is."""
    [wheel] = map(Path, sys.argv[1:])
    found = problems(wheel)
    for problem in found:
        print(f"{wheel.name}: {problem}", file=sys.stderr)
    if not found:
        size = wheel.stat().st_size / 1e6
        print(f"{wheel.name}: {', '.join(PACKAGES)} and nothing else, {size:.1f} MB")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
