"""The training guide's hours of each step are those of the committed result."""

from __future__ import annotations

import json
import re

import pytest
from places import ROOT

pytest.importorskip("torch", reason="counting a backbone's work needs the train extra")

from benchmarks.command import RESULTS
from benchmarks.training_cost import FILE, step_hours


def test_the_steps_of_the_training_guide_have_the_hours_of_the_result() -> None:
    values = json.loads((RESULTS / FILE).read_text(encoding="utf-8"))
    settings = values["settings"]
    rate = settings["share_of_peak"] * values["gpus"]["A100"]
    hours = step_hours(values["counted"]["vit-l-14-openai"], settings, rate)
    guide = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    for step, expected in zip(("encode CC3M", "Stage I", "Stage II"), hours, strict=True):
        [found] = re.findall(rf"^\| {step} \| [^|]* \| ([0-9.]+) \|", guide, re.MULTILINE)
        assert found == (f"{expected:.1f}" if expected >= 1 else f"{expected:.2f}")
