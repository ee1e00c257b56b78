"""A PostgreSQL with pgvector for a test, on a free loopback port, where both are installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def postgres_folder() -> Path | None:
    """Return the folder of PostgreSQL's commands if pgvector is installed in it, else None."""
    places = [Path(found).resolve().parent for name in ("initdb",) if (found := shutil.which(name))]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if not (place / "initdb").is_file():
            continue
        shared = subprocess.run(
            [shutil.which("pg_config") or place / "pg_config", "--sharedir"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        for share in (shared, f"/usr/share/postgresql/{place.parent.name}"):
            if share and (Path(share) / "extension" / "vector.control").is_file():
                return place
    return None


@contextlib.contextmanager
def running_postgres(commands: Path) -> Iterator[str]:
    """Make a database in a new folder and start its server; give its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    as_user: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ztcir-postgres-") as folder:
        data = Path(folder) / "data"
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # PostgreSQL refuses to run as root
            as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
            shutil.chown(folder, "nobody", "nogroup")

        def run(command: str, *arguments: str) -> None:
            whole = [*as_user, str(commands / command), *arguments]
            subprocess.run(whole, cwd=folder, check=True, stdout=subprocess.DEVNULL)

        run("initdb", "--pgdata", str(data), "--auth=trust", "--username=tester", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -F"
        log = str(Path(folder) / "log")
        run("pg_ctl", "--pgdata", str(data), "--wait", "-l", log, "-o", options, "start")
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "--pgdata", str(data), "--wait", "--mode=immediate", "stop")
