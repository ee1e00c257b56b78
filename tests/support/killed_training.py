"""Training in child processes that kill themselves at a given moment.

Run as a program, it imports everything once. Then it reads one job per line from standard input,
runs it in a fork, and prints the fork's exit code: -9 if it was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from places import ROOT, SUPPORT


class Trainer:
    """The running program."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors
        path = os.pathsep.join([str(SUPPORT), str(ROOT)])
        with errors.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )

    def train(
        self,
        stage: str,
        out: Path,
        data: list[str],
        *,
        start: str = "",
        dies: tuple[str, int] | None = None,
    ) -> int:
        """Train a stage, or resume its training; return the exit code.

        Args:
            stage: "backbone", "map" or "compose".
            out: the run's folder.
            data: shards.
            start: backbone or checkpoint that the stage starts from.
            dies: ("step", n) before step n, from 0; ("swap", n) while the n-th checkpoint, from 1,
                replaces the previous one.
        """
        job = {"stage": stage, "out": str(out), "data": data, "start": start, "dies": dies}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self.errors.read_text()
        return int(answer)

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()  # it waits for a job; a regular end takes longer
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def _dying(what: str, moment: int) -> Iterator[None]:
    import pytest

    from train.loop.run import Run

    train, rename = Run.train, Path.rename
    swaps = 0

    def stepping(self: Run, step: Callable[..., Any], *rest: Any, **options: Any) -> Any:
        def mortal(number: int, rng: Any) -> Any:
            if what == "step" and number == moment:
                _die()
            return step(number, rng)

        return train(self, mortal, *rest, **options)

    def renaming(self: Path, target: Path) -> Path:
        nonlocal swaps
        if what == "swap" and self.name == ".last.ztcir-new":
            swaps += 1
            if swaps == moment:
                _die()
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train", stepping)
        patch.setattr(Path, "rename", renaming)
        yield


def _train(job: dict[str, Any]) -> None:
    from tiny_training import fit, saved_every, tiny_fashion_lite

    with tiny_fashion_lite(), saved_every(3), _dying(*(job["dies"] or ("never", 0))):
        fit(job["stage"], Path(job["out"]), job["data"], job["start"])


def main() -> None:
    """Run jobs until standard input ends."""
    import torch
    from tiny_training import unflushed  # with everything that training needs

    torch.set_num_threads(1)
    with unflushed():
        _answer()


def _answer() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _train(json.loads(line))
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
