"""The compose files: valid by the Compose specification, and whole. No Docker is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ROOT

MILVUS = ROOT / "docker" / "milvus.compose.yaml"
FILES = sorted([*(ROOT / "docker").glob("*compose*"), *(ROOT / "examples").rglob("*compose*.yaml")])


def valid(file: Path) -> subprocess.CompletedProcess[str]:
    """Compare a file with the schema of the Compose specification, offline."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_compose_files_are_valid_by_the_specification(file: Path) -> None:
    done = valid(file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_mistyped_key_of_a_compose_file_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    text = MILVUS.read_text(encoding="utf-8")
    assert "\n    depends_on:" in text
    wrong.write_text(text.replace("\n    depends_on:", "\n    depend_on:"), encoding="utf-8")
    done = valid(wrong)
    assert done.returncode == 1
    assert "depend_on" in done.stdout


def test_milvus_reaches_the_services_that_its_settings_name() -> None:
    services = read(MILVUS)["services"]
    milvus = services["milvus"]
    settings = milvus["environment"]
    hosts = {"etcd": settings["ETCD_ENDPOINTS"], "minio": settings["MINIO_ADDRESS"]}
    assert set(milvus["depends_on"]) == set(hosts)
    for service, address in hosts.items():
        host, port = address.split(":")
        assert host == service
        assert host in services
        # MinIO listens on 9000 unless told otherwise; etcd is told.
        assert port == "9000" or f":{port}" in services[service]["command"]
    for setting in ("USER", "PASSWORD"):
        own = {"USER": "ACCESS_KEY_ID", "PASSWORD": "SECRET_ACCESS_KEY"}[setting]
        given = services["minio"]["environment"][f"MINIO_ROOT_{setting}"]
        assert settings[f"MINIO_{own}"] == given


def test_milvus_listens_on_the_port_of_the_documents_and_on_this_machine_alone() -> None:
    services = read(MILVUS)["services"]
    [published] = [port for one in services.values() for port in one.get("ports", ())]
    address, host_port, own_port = published.split(":")
    assert (address, own_port) == ("127.0.0.1", "19530")
    named = re.findall(
        r"milvus://localhost:(\d+)/", (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    )
    assert named
    assert set(named) == {host_port}


def test_milvus_keeps_its_data_and_has_no_password_of_its_own() -> None:
    text = MILVUS.read_text(encoding="utf-8")
    for name, service in read(MILVUS)["services"].items():
        [volume] = service["volumes"]
        source, target = volume.split(":")
        assert source.startswith("./milvus/")
        command = str(service["command"]) + " /var/lib/milvus"  # where Milvus itself writes
        assert target in command, name
        assert ":" in service["image"], name
        assert not service["image"].endswith(":latest"), name
        assert service["healthcheck"]["test"][0] == "CMD", name
    # Compose stops with this sentence where no password is set.
    assert text.count("${MINIO_PASSWORD:?") == 2
    assert "PASSWORD: minio" not in text
