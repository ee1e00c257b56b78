"""How long the page takes from a key to the first result, in a browser on the demo's gallery.

    python -m benchmarks.page [--browser PATH]

Starts `ztcir serve` on the demo's gallery and opens its page in headless Chromium. A drawing
becomes the reference, and texts are typed, each key once the answer to the one before is drawn. A
time is from the key to the frame in which the first picture of the new answer is drawn. Needs
playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import RESULTS, command_parser, positive, run_command, write_result
from benchmarks.markdown import format_count, format_table
from benchmarks.provenance import load_average, provenance
from benchmarks.serve import service
from cli.output import note
from ztcir_sdk import Retriever
from ztcir_sdk.demo import run_demo
from ztcir_sdk.environment import now
from ztcir_sdk.errors import MissingDependencyError, ZtcirError

__all__ = ["FILE", "describe_keys"]

FILE = "page.json"
LIMIT_MS = 100
TEXTS = (
    "make it blue",
    "the same in black with stripes",
    "as a dress",
    "for women, and without the pattern",
    "a green jacket like this",
)
WATCH = """
() => {
  window.times = [];
  let since = 0;
  addEventListener("keydown", () => { since = performance.now(); }, true);
  const drawn = () => requestAnimationFrame(() => requestAnimationFrame(() => {
    if (since) window.times.push(performance.now() - since);
    since = 0;
  }));
  new MutationObserver(() => {
    const picture = document.querySelector("#results .card img");
    if (!picture || !since) return;
    if (picture.complete) drawn();
    else picture.addEventListener("load", drawn, { once: true });
  }).observe(document.querySelector("#results"), { childList: true });
}
"""
"""Runs in the page. Two frames after the change is the first moment at which it must be drawn."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the result file; return the exit code."""
    parser = command_parser("page", "Measure the page from a key to the first result.")
    parser.add_argument("--rounds", type=positive, default=3, help="times that the texts are typed")
    parser.add_argument("--threads", type=positive, default=1, help="threads of ONNX Runtime")
    parser.add_argument("--browser", help="a Chromium; by default the one on the path")
    parser.add_argument("--output", type=Path, default=RESULTS / FILE)
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> None:
    date, load = now(), load_average()
    with tempfile.TemporaryDirectory(prefix="ztcir-page-") as scratch:
        note("Drawing and indexing the demo's gallery")
        retriever = Retriever.from_pretrained(threads=options.threads)
        demo = run_demo(retriever, scratch)
        with service(demo.index, options.threads) as (_, port):
            version, times = typed(port, options.browser, options.rounds)
    write_result(
        options.output,
        {
            **provenance(date, options.threads, load),
            "bundle": retriever.bundle.name,
            "pictures": demo.pictures,
            "browser": f"Chromium {version}",
            "keys": len(times),
            "milliseconds": figures(times),
        },
    )


def figures(times: Sequence[float]) -> dict[str, float]:
    """Return percentiles of times in milliseconds, and the share of at most `LIMIT_MS`."""
    return {
        **{f"p{part}": round(float(np.percentile(times, part)), 1) for part in (50, 90, 99)},
        "max": round(max(times), 1),
        f"within_{LIMIT_MS}": round(float(np.mean(np.array(times) <= LIMIT_MS)), 4),
    }


def typed(port: int, browser: str | None, rounds: int) -> tuple[str, list[float]]:
    """Type the texts; return the browser's version, and milliseconds of each key.

    Raises:
        MissingDependencyError: playwright is not installed.
        ZtcirError: there is no Chromium.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingDependencyError(
            "The page is measured with playwright: `pip install playwright`."
        ) from error
    path = browser or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise ZtcirError("There is no Chromium on the path: name one with --browser.")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 1280, "height": 900}, bypass_csp=True)
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector(".card")
        page.click(".card .picture")
        page.wait_for_selector("#pictures img")
        page.evaluate(WATCH)
        times: list[float] = []
        for number in range(rounds + 1):
            note(f"Round {number} of {rounds}" if number else "Warming up")
            for text in TEXTS:
                page.fill("#text", "")
                _settle(page)
                page.wait_for_timeout(300)  # the pictures of that answer are drawn too
                found = _type(page, text)
                times += found if number else []
        version = opened.version
        opened.close()
    return version, times


def _type(page: Any, text: str) -> list[float]:
    """Type a text, key by key, each once the answer to the last is drawn; return the times."""
    page.focus("#text")
    page.evaluate("() => { window.times = []; }")
    for place, key in enumerate(text):
        page.keyboard.type(key)
        page.wait_for_function("place => window.times.length > place", arg=place)
    return [float(one) for one in page.evaluate("window.times")]


def _settle(page: Any) -> None:
    page.wait_for_function("document.querySelector('#results').ariaBusy === 'false'")


def describe_keys(values: Mapping[str, Any]) -> str:
    """Describe the result file, for `docs/serving.md`."""
    times = values["milliseconds"]
    columns = ("milliseconds", "p50", "p90", "p99", "longest")
    row = (
        "from a key to the first result",
        *(f"{times[n]:.0f}" for n in ("p50", "p90", "p99", "max")),
    )
    return "\n\n".join(
        (
            format_table(columns, [row]),
            f"{times[f'within_{LIMIT_MS}']:.1%} of {format_count(values['keys'])} keys within "
            f"{LIMIT_MS} ms, until the first picture is drawn. {values['browser']}, "
            f"{format_count(values['pictures'])} "
            f"drawings, bundle `{values['bundle']}`, {values['machine']['cpu']}, which the browser "
            f"shares, {values['date'][:10]}.",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
