"""`ztcir models`: the models of this machine and of the hub."""

from __future__ import annotations

from pathlib import Path

import click

from cli.options import BundleName, Group, as_json, load_bundle
from cli.output import emit_json, note, progress_bar, table

__all__ = ["models"]


@click.group(cls=Group)
def models() -> None:
    """List, download, remove and upload models.

    A model is called by its name, the folder of a bundle, or hf://org/repo@revision.

    \b
    Examples:
      ztcir models list
      ztcir models pull hf://org/repo@v1.0
      ztcir models push my-bundle hf://org/repo
    """


@models.command("list")
@as_json
def list_all(as_json: bool) -> None:
    """List the models that can be used without a download.

    \b
    Examples:
      ztcir models list
    """
    from ztcir_sdk.hub import list_models

    found = list_models()
    if as_json:
        emit_json({"models": [entry.to_dict() for entry in found]})
        return
    table(
        ("name", "MB", "folder"),
        [(entry.name, f"{entry.megabytes:.1f}", str(entry.path)) for entry in found],
    )


@models.command()
@click.argument("name")
@as_json
def pull(name: str, as_json: bool) -> None:
    """Download the model NAME of the hub, or update it.

    \b
    Examples:
      ztcir models pull hf://org/repo
      ztcir models pull hf://org/repo@v1.0
    """
    from ztcir_sdk.hub import pull_model

    with progress_bar("Downloading") as progress:
        bundle = pull_model(name, progress=progress)
    if as_json:
        emit_json({"name": name, "path": str(bundle.path), "bundle": bundle.name})
    else:
        click.echo(bundle.path)


@models.command()
@click.argument("name")
def path(name: str) -> None:
    """Print the folder of the model NAME.

    \b
    Examples:
      ztcir models path fashion-lite
    """
    from ztcir_sdk.hub import model_folder

    click.echo(model_folder(name))


@models.command()
@click.argument("name")
def remove(name: str) -> None:
    """Delete the downloaded model NAME.

    \b
    Examples:
      ztcir models remove hf://org/repo
    """
    from ztcir_sdk.hub import remove_model

    note(f"removed {remove_model(name)}")


@models.command()
@click.argument("bundle", type=BundleName())
@click.argument("name")
@click.option("--public", is_flag=True, help="Make a new repository public.")
def push(bundle: Path | str, name: str, public: bool) -> None:
    """Upload the folder BUNDLE to the hub as NAME, with a model card.

    \b
    Examples:
      ztcir models push my-bundle hf://org/repo
    """
    from ztcir_sdk.hub import push_model

    click.echo(push_model(load_bundle(bundle), name, private=not public))
