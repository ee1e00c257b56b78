"""Execute a document word for word: its commands, its files, and what it says they print.

    python .ci/tutorial.py docs/tutorial.md FOLDER [--skip HEADING]...

The commands are the lines behind ``$`` in blocks of ``console``, typed one after another into one
shell that starts in FOLDER. A block with a title, such as ``python title="search.py"``, is a file,
which is written first. The lines below a command are its output: ``...`` alone stands for any
lines, within a line for any text. Times may differ, and scores by 0.03, since processors round
differently; every other word must be the same. A command that fails ends the run.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PORT = "8642"
"""Port that documents use; another one is put in its place, so that it is surely free."""
SCORES_MAY_DIFFER_BY = 0.03
ENDED = "--- ended with"
TIME = re.compile(r'(?<=; )[\d.]+ s \(\d+ images/s\)|(?<=; )[\d.]+ s$|(?<="milliseconds": )[\d.]+')
FLOAT = re.compile(r"\d+\.\d+")


class WrongError(Exception):
    """The document says something else than what happens."""


@dataclass(frozen=True)
class File:
    """A file that the reader saves."""

    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command that the reader types, and what it prints."""

    line: int
    text: str
    output: list[str]


def main() -> int:
    """Run the document; return 1 and say where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("document", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--skip", action="append", default=[], help="heading of a section")
    options = parser.parse_args()
    text = options.document.read_text(encoding="utf-8")
    try:
        print(f"{run(list(steps(text, options.skip)), options.folder)} commands did as it says")
    except WrongError as wrong:
        print(f"{options.document}: {wrong}", file=sys.stderr)
        return 1
    return 0


def steps(text: str, skipped: list[str]) -> Iterator[File | Command]:
    """Return what a document says to do, in its order.

    Raises:
        WrongError: it has no section of a name in `skipped`, or a block without an end.
    """
    block: list[str] = []
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if missing := set(skipped) - set(headings):
        raise WrongError(f"it has no section {sorted(missing)}")
    heading, kind, start = "", None, 0
    for number, line in enumerate(text.splitlines(), 1):
        if kind is None and line.startswith("## "):
            heading = line[3:]
        if kind is None and line.startswith("```"):
            kind, start, block = line[3:], number, []
        elif line == "```":
            if heading not in skipped:
                yield from _read_block(str(kind), start, block)
            kind = None
        elif kind is not None:
            block.append(line)
    if kind is not None:
        raise WrongError(f"line {start}: the block has no end")


def _read_block(kind: str, start: int, block: list[str]) -> Iterator[File | Command]:
    if title := re.search(r'title="([^"]+)"', kind):
        yield File(title[1], "\n".join(block) + "\n")
    if kind != "console":
        return
    lines = list(enumerate(block, start + 1))
    while lines:
        number, line = lines.pop(0)
        if not line.startswith("$ "):
            raise WrongError(f"line {number}: output without a command")
        words = line[2:]
        while words.endswith("\\"):
            words += "\n" + lines.pop(0)[1]
        output = []
        while lines and not lines[0][1].startswith("$ "):
            output.append(lines.pop(0)[1])
        yield Command(number, words, output)


def run(wanted: list[File | Command], folder: Path) -> int:
    """Do it in one shell; return how many commands ran.

    Raises:
        WrongError: a command failed, or printed something else.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile"],
        cwd=folder,
        env={**os.environ, "PWD": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    ) as shell:
        ran = 0
        try:
            for step in wanted:
                if isinstance(step, File):
                    _type(
                        shell,
                        f"cat > {step.name} <<'END OF {step.name}'\n{step.text}END OF {step.name}",
                    )
                    continue
                status, printed = _type(shell, step.text.replace(PORT, port))
                shown = "\n".join(printed)
                if status != 0:
                    raise WrongError(
                        f"line {step.line}: $ {step.text}\nended with {status}:\n{shown}"
                    )
                if not matches(step.output, [line.replace(port, PORT) for line in printed]):
                    expected = "\n".join(step.output)
                    raise WrongError(
                        f"line {step.line}: $ {step.text}\nprints:\n{shown}\nand not:\n{expected}"
                    )
                ran += 1
        finally:
            _type(shell, "kill $(jobs -p) 2>/dev/null; wait")
            shell.communicate("exit\n")
    return ran


def _type(shell: subprocess.Popen[str], text: str) -> tuple[int, list[str]]:
    """Type something; return its exit status and the lines that it printed."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{text}\nprintf '\\n{ENDED} %s\\n' $?\n")
    shell.stdin.flush()
    printed: list[str] = []
    for line in shell.stdout:
        if line.startswith(ENDED):
            if printed and not printed[-1]:
                printed.pop()  # the line break before the mark
            return int(line.removeprefix(ENDED)), printed
        printed.append(line.rstrip("\n"))
    return 1, [*printed, "(the shell ended)"]


def matches(expected: list[str], printed: list[str]) -> bool:
    """Compare what is printed with what a document shows."""
    if not expected:
        return not printed
    if expected[0] == "...":
        rest = range(len(printed) + 1)
        return any(matches(expected[1:], printed[start:]) for start in rest)
    return bool(printed) and _same(expected[0], printed[0]) and matches(expected[1:], printed[1:])


def _same(expected: str, printed: str) -> bool:
    expected, printed = TIME.sub("TIME", expected), TIME.sub("TIME", printed)
    # tabs between columns are shown as they are; spaces at the end of a line are nobody's
    pattern = re.escape(FLOAT.sub("\0", expected.rstrip()))
    pattern = pattern.replace(re.escape("..."), ".*").replace(re.escape("\0"), r"(\d+\.\d+)")
    found = re.fullmatch(pattern, printed.rstrip())
    return found is not None and all(
        abs(float(one) - float(other)) <= SCORES_MAY_DIFFER_BY
        for one, other in zip(FLOAT.findall(expected), found.groups(), strict=True)
    )


if __name__ == "__main__":
    raise SystemExit(main())
