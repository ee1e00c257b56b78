"""Result files of the benchmarks, with made-up figures."""

from __future__ import annotations

from typing import Any

__all__ = ["MODEL", "RATIO", "TIMING", "result_files"]

TIMING = {"p50_ms": 12.345, "p90_ms": 0.125, "p99_ms": 234.5, "mean_ms": 1, "min_ms": 1, "runs": 9}
RATIO = {"median": 2.5, "p25": 2.25, "p75": 3.0, "min": 1, "max": 9, "rounds": 4}
WHERE = {
    "date": "2026-11-25T14:17:35+00:00",
    "machine": {"cpu": "Some CPU"},
    "versions": {"onnxruntime": "1.2.3", "torch": "4.5.6"},
    "threads": 2,
}


def scores(number: float, **more: Any) -> dict[str, Any]:
    return {"overall": {"R@1": number, "R@5": 0.5, "R@10": 0.75, "mAP@10": number}, **more}


TWO = {"sdk": TIMING, "pytorch": TIMING}
MODEL = {
    "name": "ViT-B-32",
    "weights": "random",
    "tokens": {"cut": 12, "padded": 77},
    "comparisons": {
        **{
            what: {"timings": TWO, "ratios": {"sdk": RATIO}}
            for what in ("image_encoder", "token_learner", "first_text", "second_text")
        },
        "text_encoder": {
            "timings": {**TWO, "sdk_padded": TIMING, "pytorch_cut": TIMING},
            "ratios": {
                "sdk": {**RATIO, "median": 7.125},
                "sdk_padded": RATIO,
                "pytorch_cut": RATIO,
            },
        },
    },
}


QUANTIZED = {
    "name": "ViT-B-32",
    "weights": "random",
    "graphs": {
        "image_encoder": {
            "variants": {"int8-dynamic-7": {"cosine": {"mean": 0.9995, "least": 0.99}}},
            "comparisons": {
                size: {
                    "timings": {"fp32": TIMING, "fp32-fused": TIMING, "int8-dynamic-7": TIMING},
                    "ratios": {"fp32-fused": RATIO, "int8-dynamic-7": RATIO},
                }
                for size in ("1 picture", "batch")
            },
            "share_of_products": {"1 picture": 0.875, "batch": 0.9},
        }
    },
}


def result_files() -> dict[str, Any]:
    return {
        "val-triplets.json": {
            "methods": {
                "composed": scores(0.2),
                **{name: scores(0.05) for name in ("mapped", "image", "text", "sum", "oracle")},
                "stage1": scores(0.125),
                "sum_best": scores(0.1, weight=0.35),
            },
            "queries": 1800,
            "gallery": 4000,
            "bundle": {"name": "tiny", "fingerprint": "00", "precision": "fp32"},
            "date": WHERE["date"],
        },
        "bench.json": {
            **WHERE,
            "bundle": {"name": "tiny", "fingerprint": "00"},
            "precision": "fp32",
            "graphs": {
                "image_encoder": [{"images": 1, **TIMING}, {"images": 8, **TIMING}],
                "text_encoder": [{"texts": 1, "tokens": 8, **TIMING}],
            },
            "query": {"index": 10_000, "first_text": TIMING, "second_text": TIMING},
            "indexing": {"pictures_per_second": 41.5},
        },
        "latency.json": {
            **WHERE,
            "models": [MODEL],
        },
        "precision.json": {**WHERE, "models": [QUANTIZED]},
    }
