"""`ztcir doctor`: what runs on this machine, and how to fix what does not."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import Command, IndexName, as_json, bundle_option
from cli.output import emit_json, print_line, printable

MARKS = {"ok": "ok", "note": "--", "problem": "!!"}


@click.command(cls=Command)
@bundle_option()
@click.option(
    "--index",
    type=IndexName(),
    metavar="NAME.ztcir",
    help="Index to check, or its address in Milvus; default: the one that `ztcir search` would "
    "use here.",
)
@as_json
@click.pass_context
def doctor(
    context: click.Context, bundle: Path | str | None, index: Path | str | None, as_json: bool
) -> None:
    """Check what runs on this machine: runtime, providers, GPU, bundle, index.

    Each problem is listed with a fix. The exit code is 0 if a search can run, else 1.

    \b
    Examples:
      ztcir doctor
      ztcir doctor --bundle my-bundle/ --json
    """
    from ztcir_sdk.doctor import diagnose

    diagnosis = diagnose(bundle=bundle, index=index)
    if as_json:
        emit_json(diagnosis.to_dict())
    else:
        width = max(len(finding.name) for finding in diagnosis.findings)
        for finding in diagnosis.findings:
            print_line(
                printable(f"[{MARKS[finding.status]}] {finding.name:{width}}  {finding.detail}")
            )
            if finding.fix:
                print_line(printable(f"{'':{width + 5}}  -> {finding.fix}"))
        click.echo("A search can run." if diagnosis.can_search else "A search cannot run yet.")
    context.exit(0 if diagnosis.can_search else 1)
