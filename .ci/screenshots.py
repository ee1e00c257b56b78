"""Take the screenshots of docs/page.png: the page on the demo's drawings, light and dark.

    python .ci/screenshots.py [BROWSER]

Needs playwright and a Chromium, by default the one on the path.
"""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from ztcir_sdk import Retriever
from ztcir_sdk.demo import run_demo
from ztcir_sdk.serve.app import create_app

OUT = Path(__file__).resolve().parents[1] / "docs" / "page.png"
DESKTOP, PHONE = (1280, 800), (390, 800)
GAP = 24


def main(browser: str | None = None) -> None:
    """Serve the demo, and write the picture."""
    retriever = Retriever.from_pretrained()
    with tempfile.TemporaryDirectory(prefix="ztcir-screenshots-") as folder:
        index = run_demo(retriever, folder).index
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(retriever, index), log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        try:
            with sync_playwright() as driver:
                path = browser or shutil.which("chromium")
                opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
                shots = [
                    shoot(opened, address, DESKTOP, "light"),
                    shoot(opened, address, PHONE, "dark"),
                ]
                opened.close()
        finally:
            server.should_exit = True
            thread.join()
    width = sum(shot.width for shot in shots) + GAP
    sheet = Image.new("RGB", (width, max(shot.height for shot in shots)), "white")
    sheet.paste(shots[0], (0, 0))
    sheet.paste(shots[1], (shots[0].width + GAP, 0))
    sheet.quantize(256).save(OUT, optimize=True)


def shoot(browser: Any, address: str, size: tuple[int, int], scheme: str) -> Image.Image:
    """Return the page with a search about a drawing."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    page.goto(address)
    page.fill("#text", "a red striped t-shirt")
    page.wait_for_selector('.card [aria-label^="Search from red striped t shirt"]')
    page.click('.card [aria-label^="Search from red striped t shirt"]')
    page.wait_for_selector("#pictures img")
    page.fill("#text", "a dress in the same style")
    page.click("#tune")
    page.wait_for_timeout(600)
    page.mouse.move(0, 0)
    page.wait_for_function("[...document.images].slice(0, 4).every((one) => one.complete)")
    page.wait_for_timeout(600)
    data = page.screenshot()
    context.close()
    return Image.open(BytesIO(data)).convert("RGB")


if __name__ == "__main__":
    main(*sys.argv[1:])
