"""The files of examples/service agree with the command, the image and each other."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import yaml
from places import ROOT
from running_service import running_service

from cli.main import main
from ztcir_sdk.serve.settings import ServeSettings

SERVICE = ROOT / "examples" / "service"


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return the options of a call of `ztcir serve`, without running it."""
    assert arguments[0] == "serve"
    command = main.get_command(click.Context(main), "serve")
    assert command is not None
    return command.make_context("serve", arguments[1:]).params


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (SERVICE / "ztcir.service").read_text(encoding="utf-8")
    found = re.search(r"^ExecStart=(\S+)/ztcir (.+)$", text, re.MULTILINE)
    assert found
    options = parsed(found[2].split())
    assert options["host"] == "127.0.0.1"  # the proxy is on the same machine
    assert options["allow_host"] == ("photos.example",)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "ztcir.service"
    unit.write_text(
        text.replace(f"{found[1]}/ztcir", "/bin/true").replace("/etc/ztcir.env", "/dev/null")
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_compose_starts_what_the_image_has() -> None:
    compose = yaml.safe_load((SERVICE / "compose.yaml").read_text(encoding="utf-8"))
    service = compose["services"]["ztcir"]
    options = parsed(service["command"])
    assert options["host"] == "0.0.0.0"
    build = service["build"]
    context = (SERVICE / build["context"]).resolve()
    dockerfile = (context / build["dockerfile"]).read_text(encoding="utf-8")
    assert context == ROOT
    assert re.search(r"pip install .*\[[^\]]*\bserve\b[^\]]*\]", dockerfile)
    assert 'ENTRYPOINT ["ztcir"]' in dockerfile
    assert service["read_only"]
    assert "ports" not in service  # only the proxy can be reached
    assert service["environment"]["FORWARDED_ALLOW_IPS"] == "*"
    for volume in compose["services"]["caddy"]["volumes"]:
        source = volume.split(":")[0]
        assert source in compose["volumes"] or (SERVICE / source).exists()


def test_the_proxy_knows_the_service() -> None:
    caddy = (SERVICE / "Caddyfile").read_text(encoding="utf-8")
    compose = yaml.safe_load((SERVICE / "compose.yaml").read_text(encoding="utf-8"))
    name, port = re.findall(r"reverse_proxy (\w+):(\d+)", caddy)[0]
    assert name in compose["services"]
    assert int(port) == ServeSettings().port
    # the service refuses what is too large before the proxy does, with a sentence
    size = f"max_size {ServeSettings().max_upload_mb + 1}MB"
    assert size in caddy
    assert size in (ROOT / "docs" / "guide-service.md").read_text(encoding="utf-8")
    assert re.search(r"^photos\.example \{", caddy, re.MULTILINE)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


TOKEN = "a-long-random-text"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a service with one photo, started with the environment of the compose file."""
    compose = yaml.safe_load((SERVICE / "compose.yaml").read_text(encoding="utf-8"))
    trusted = compose["services"]["ztcir"]["environment"]["FORWARDED_ALLOW_IPS"]
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
    settings = ServeSettings(token=TOKEN, allowed_hosts=("photos.example",))
    with running_service(tmp_path, settings) as port:
        yield port


@pytest.fixture
def proxy(service: int, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of Caddy with the example's configuration, and certificates of its own."""
    port = free_port()
    head = f"local_certs\nskip_install_trust\nadmin off\nhttps_port {port}\nhttp_port {free_port()}"
    text = (SERVICE / "Caddyfile").read_text(encoding="utf-8")
    file = tmp_path / "Caddyfile"
    text = text.replace("ztcir:8000", f"127.0.0.1:{service}")
    file.write_text(f"{{\n{head}\n}}\n{text}", encoding="utf-8")
    folders = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]
    headers = {"Host": "photos.example", "Authorization": f"Bearer {TOKEN}"}
    with (
        subprocess.Popen(
            command, env={**os.environ, **folders}, stderr=subprocess.DEVNULL
        ) as caddy,
        httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, headers=headers) as client,
    ):
        try:
            _wait_for(client)
            yield client
        finally:
            caddy.terminate()


def _wait_for(client: httpx.Client) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            assert client.get("/healthz", extensions=NAME).json()["items"] == 1
            return
        except httpx.TransportError:
            assert time.monotonic() < until
            time.sleep(0.1)


NAME = {"sni_hostname": "photos.example"}


@pytest.mark.skipif(shutil.which("caddy") is None, reason="caddy is not installed")
def test_all_works_behind_caddy(proxy: httpx.Client, tmp_path: Path) -> None:
    files = {"image": (tmp_path / "photos" / "0.png").read_bytes()}
    uploaded = proxy.post("/api/v1/references", files=files, extensions=NAME)
    assert uploaded.status_code == 200, uploaded.text
    found = proxy.post("/api/v1/search", data={"text": "red"}, extensions=NAME)
    assert found.status_code == 200, found.text
    [hit] = found.json()["hits"]
    picture = proxy.get(f"/api/v1/items/{hit['id']}/thumbnail", extensions=NAME)
    assert picture.headers["content-type"] == "image/jpeg"
    entered = proxy.post("/api/v1/session", data={"token": TOKEN}, extensions=NAME)
    assert "; Secure" in entered.headers["set-cookie"]
    page = proxy.get("/", extensions=NAME)
    assert page.headers["content-encoding"] in ("gzip", "zstd")
    assert page.headers["x-frame-options"] == "DENY"
    proxy.cookies.clear()
    refused = proxy.get("/api/v1/info", headers={"Authorization": ""}, extensions=NAME)
    assert refused.json()["error"]["kind"] == "token"
