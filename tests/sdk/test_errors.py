"""Hints about packages that are missing."""

from __future__ import annotations

from importlib import metadata

import pytest

from ztcir_sdk.errors import install_hint


def test_install_hint_names_the_packages_and_the_extra() -> None:
    declared = [line for line in metadata.requires("ztcir") or [] if 'extra == "cpu"' in line]
    packages = " ".join(f"'{line.partition(';')[0]}'" for line in declared)
    assert "'onnxruntime>=" in packages
    assert install_hint("cpu") == f"pip install {packages} (ztcir[cpu])"
    again = install_hint("cpu", reinstall=True)
    assert again == f"pip install --force-reinstall {packages} (ztcir[cpu])"
    hint = install_hint("trt-rtx")  # two of its packages have a platform marker
    assert "'cuda-python>=13'" in hint
    assert "'tensorrt-rtx-cu13>=1.2'" in hint
    assert "torch" not in hint


def test_install_hint_of_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert install_hint("cpu") == "pip install '.[cpu]' in a checkout of ztcir (ztcir[cpu])"
