"""The command `python -m benchmarks.latency`: its file, its options and its errors."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from result_files import MODEL, RATIO, TIMING
from tiny_bundle import write_tiny_bundle

from benchmarks.comparison import Rounds
from ztcir_sdk.errors import ZtcirError


class TestCommand:
    @pytest.fixture
    def latency(self, torch: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        """The command, its tasks in this process."""
        from benchmarks import latency

        monkeypatch.setattr(
            latency, "_in_own_process", lambda threads, task, *arguments: task(*arguments)
        )
        return latency

    def test_its_file(
        self,
        latency: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        done = []

        def measure_trained(folder: Path, checkpoint: Path | None, settings: Any) -> dict[str, Any]:
            done.append(("measure", folder.name))
            return {**MODEL, "name": "mine", "checkpoint": str(checkpoint)}

        def measure_random(name: str, folder: Path, settings: Any) -> dict[str, Any]:
            done.append(("measure", name))
            assert (settings.threads, settings.length) == (3, Rounds(7, 2, 1.5))
            return {**MODEL, "name": name}

        monkeypatch.setattr(
            latency, "export_random", lambda name, folder: done.append(("export", name))
        )
        monkeypatch.setattr(latency, "measure_random", measure_random)
        monkeypatch.setattr(latency, "measure_trained", measure_trained)
        write_tiny_bundle(tmp_path / "tiny")
        out = tmp_path / "new" / "latency.json"
        how = ["--threads", "3", "--rounds", "7", "--runs", "2", "--seconds", "1.5"]
        trained = ["--bundle", str(tmp_path / "tiny"), "--checkpoint", "runs"]
        assert latency.main(["--models", "A", "B", "--out", str(out), *how, *trained]) == 0
        # a name that cannot be exported fails before anything is measured
        stages = [stage for stage, _ in done]
        assert stages == ["export", "export", "measure", "measure", "measure"]
        result = json.loads(out.read_text())
        assert [model["name"] for model in result["models"]] == ["A", "B", "mine"]
        assert result["models"][2]["checkpoint"] == "runs"
        assert result["machine"].keys() >= {"cpu", "cpus", "memory_gb", "os"}
        assert result["versions"].keys() >= {"python", "torch", "open_clip_torch", "onnxruntime"}
        assert result["threads"] == 3
        assert result["settings"] == {
            "rounds": 7,
            "runs": 2,
            "seconds": 1.5,
            "gallery": 10_000,
            "k": 10,
        }
        assert result["load_average"].keys() == {"before", "after"}
        assert result["date"].endswith("+00:00")
        if (ROOT / ".git").exists():
            head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
            commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
            assert result["git"]["commit"] == commit
        assert "B\tfirst text\t12.35\t12.35\t2.50\n" in capsys.readouterr().out

    def test_a_gpu_has_its_own_file_which_names_the_sides(
        self,
        latency: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        done: list[str] = []

        def check_gpu(device: str) -> str:
            done.append(device)
            return "NVIDIA GeForce RTX 3090"

        def measure_random(name: str, folder: Path, settings: Any) -> dict[str, Any]:
            assert (settings.device, settings.compiled) == ("cuda:0", True)
            model: dict[str, Any] = {**copy.deepcopy(MODEL), "name": name}
            for one in model["comparisons"].values():
                one["ratios"]["pytorch_compiled"] = {**RATIO, "median": 1.75}
                one["timings"]["pytorch_compiled"] = TIMING
            return {**model, "not_measured": {"sdk_tensorrt": "TensorRT is not installed."}}

        monkeypatch.setattr(latency, "RESULTS", tmp_path)
        monkeypatch.setattr(latency, "embedded_names", list)
        monkeypatch.setattr(latency, "check_gpu", check_gpu)
        monkeypatch.setattr(latency, "export_random", lambda name, folder: done.append(name))
        monkeypatch.setattr(latency, "measure_random", measure_random)
        assert latency.main(["--models", "A", "--device", "cuda", "--compile"]) == 0
        assert done == ["cuda:0", "A"]
        assert [file.name for file in tmp_path.iterdir()] == [
            "latency-nvidia-geforce-rtx-3090.json"
        ]
        result = json.loads((tmp_path / "latency-nvidia-geforce-rtx-3090.json").read_text())
        settings = result["settings"]
        assert (settings["device"], settings["gpu"]) == ("cuda:0", "NVIDIA GeForce RTX 3090")
        assert settings["sides"] == ["sdk", "sdk_tensorrt", "pytorch", "pytorch_compiled"]
        assert settings["tf32"] is False
        assert settings["compile"] == {"mode": "default", "dynamic": ["text_encoder"]}
        assert result["models"][0]["not_measured"] == {"sdk_tensorrt": "TensorRT is not installed."}
        printed = capsys.readouterr().out
        assert "A\tfirst text\t12.35\t12.35\t2.50\n" in printed
        assert "A\tfirst text\t12.35\t12.35\t1.75\n" in printed

    def test_a_compiled_side_on_the_cpu_has_its_own_file(
        self, latency: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(latency, "RESULTS", tmp_path)
        monkeypatch.setattr(latency, "embedded_names", list)
        monkeypatch.setattr(latency, "export_random", lambda name, folder: None)
        monkeypatch.setattr(latency, "measure_random", lambda *_: {**MODEL, "name": "A"})
        assert latency.main(["--models", "A", "--compile"]) == 0
        settings = json.loads((tmp_path / "latency-compiled.json").read_text())["settings"]
        sides = ["sdk", "pytorch", "pytorch_compiled"]
        assert (settings["device"], settings["sides"]) == ("cpu", sides)
        assert "tf32" not in settings
        assert "gpu" not in settings

    @pytest.mark.parametrize(
        ("device", "cuda", "gpus", "code", "sentence"),
        [
            (
                "cuda:0",
                None,
                0,
                1,
                "cuda:0 cannot be measured: this PyTorch was built without CUDA",
            ),
            ("cuda:0", "13.0", 0, 1, "cuda:0 cannot be measured: PyTorch finds no NVIDIA GPU"),
            ("cuda:2", "13.0", 2, 2, "There is no cuda:2: PyTorch finds 2 GPUs"),
            ("cuda:1", "13.0", 2, 1, "cuda:1 cannot be used (this ONNX Runtime"),
            ("gpu", "13.0", 1, 2, "There is no device 'gpu'"),
        ],
    )
    def test_a_missing_gpu_is_an_error_before_anything_is_exported(
        self,
        device: str,
        cuda: str | None,
        gpus: int,
        code: int,
        sentence: str,
        latency: Any,
        torch: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def export(name: str, folder: Path) -> None:
            raise AssertionError("exported")

        monkeypatch.setattr(latency, "RESULTS", tmp_path)
        monkeypatch.setattr(latency, "export_random", export)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
        assert latency.main(["--models", "A", "--device", device]) == code
        printed = capsys.readouterr()
        assert sentence in printed.err
        assert printed.err.count("\n") == 1
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("gpu", "name"),
        [
            ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
            ("Orin (nvgpu)/x", "orin-nvgpu-x"),
        ],
    )
    def test_a_gpus_name_is_part_of_the_file_name(self, gpu: str, name: str, torch: Any) -> None:
        from benchmarks.compared.gpu import slug

        assert slug(gpu) == name

    @pytest.mark.parametrize(
        ("arguments", "code", "sentence"),
        [
            (["--models", "no-such-model"], 1, "no-such-model is neither an open_clip model"),
            (["--models", "--bundle", "nowhere"], 1, "nowhere does not exist"),
        ],
    )
    def test_errors_are_one_sentence(
        self,
        arguments: list[str],
        code: int,
        sentence: str,
        latency: Any,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert latency.main([*arguments, "--out", str(tmp_path / "o.json")]) == code
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "o.json").exists()

    @pytest.mark.parametrize("rounds", ["0", "-1", "many"])
    def test_a_wrong_number_is_a_usage_error(
        self, latency: Any, rounds: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit_:
            latency.main([f"--rounds={rounds}"])
        assert exit_.value.code == 2
        assert "is not a whole number of at least 1" in capsys.readouterr().err

    def test_a_killed_process_is_an_error(
        self, torch: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from benchmarks import latency

        for name in latency.THREAD_VARIABLES:
            monkeypatch.setenv(name, "1")
        with pytest.raises(
            ZtcirError, match=r"process that measures 9 was killed, probably because memory"
        ):
            latency._in_own_process(1, os._exit, 9)

    @pytest.mark.slow
    def test_a_backbone_is_exported_and_measured(self, tmp_path: Path, torch: Any) -> None:
        out = tmp_path / "latency.json"
        command = [sys.executable, "-m", "benchmarks.latency", "--models", "fashion-lite"]
        few = ["--threads=1", "--rounds=2", "--runs=1", "--gallery=100", f"--out={out}"]
        done = subprocess.run([*command, *few], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        model = json.loads(out.read_text())["models"][0]
        assert (model["name"], model["weights"]) == ("fashion-lite", "random")
        assert model["largest_difference"] < 1e-4
        assert 0.1 < model["peak_memory_gb"] < 24
        assert all(one["ratios"]["sdk"]["rounds"] == 2 for one in model["comparisons"].values())
        assert "Traceback" not in done.stderr
