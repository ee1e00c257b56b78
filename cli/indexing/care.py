"""What `ztcir index` does with an index that is there: describe, check, compact, export, remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.output import emit_json, note, print_line, progress_bar, table
from ztcir_sdk.errors import ZtcirError

if TYPE_CHECKING:
    from ztcir_sdk.filters import FieldSummary
    from ztcir_sdk.gallery import AnyIndex

__all__ = ["Care", "care_options", "split_index"]


@dataclass(frozen=True)
class Care:
    """Which of the options below are given."""

    info: bool
    fields: bool
    verify: bool
    compact: bool
    export: Path | None
    remove: bool
    where: str | None

    @property
    def wanted(self) -> list[str]:
        """The options that are given, other than `--where`."""
        given = {name: value for name, value in vars(self).items() if name != "where" and value}
        return [f"--{name}" for name in given]

    def check(self) -> None:
        """Refuse options that do not go together."""
        if len(self.wanted) > 1:
            raise click.UsageError(f"{' and '.join(self.wanted)} are different tasks: give one.")
        if self.where is not None and not self.remove:
            raise click.UsageError(
                "--where needs --remove here; to search with a filter, use `ztcir search --where`."
            )

    def run(self, name: Path | str, paths: Sequence[str], *, prune: bool, as_json: bool) -> None:
        """Do what is asked for with the index of that name."""
        from ztcir_sdk.gallery import open_any

        if paths and not self.remove:
            raise click.UsageError(f"{self.wanted[0]} takes only an index, not {paths[0]} too.")
        index = open_any(name, image_tower=None)
        if self.info:
            _info(index, as_json=as_json)
        elif self.fields:
            _fields(index, as_json=as_json)
        elif self.verify:
            _verify(index, as_json=as_json)
        elif self.compact:
            _compact(index, as_json=as_json)
        elif self.export is not None:
            _export(index, self.export, as_json=as_json)
        else:
            _remove(index, paths, self.where, prune=prune, as_json=as_json)


care_options = (
    click.option("--info", is_flag=True, help="Describe an index: size, origin, graph, recall."),
    click.option(
        "--fields", is_flag=True, help="List the fields of an index that --where can ask for."
    ),
    click.option("--verify", is_flag=True, help="Check every byte of an index; exit 1 if damaged."),
    click.option("--compact", is_flag=True, help="Free the space of what was removed."),
    click.option(
        "--export",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="OUT.parquet",
        help="Write ids, paths, metadata and vectors of an index to a Parquet file.",
    ),
    click.option(
        "--remove",
        is_flag=True,
        help="Remove images from an index: the paths after it, or --where. Files stay.",
    ),
    click.option(
        "--where",
        metavar="FILTER",
        help='With --remove: the images that satisfy a filter, such as "price < 50".',
    ),
)


def split_index(sources: Sequence[str]) -> tuple[Path | str | None, list[str]]:
    """Return the index that is named before other arguments, if one is, and these."""
    from ztcir_sdk.names import INDEX_SUFFIX, is_milvus_address

    if sources and is_milvus_address(sources[0]):
        return sources[0], list(sources[1:])
    if sources and sources[0].rstrip("/\\").lower().endswith(INDEX_SUFFIX):
        return Path(sources[0]), list(sources[1:])
    return None, list(sources)


def _info(index: AnyIndex, *, as_json: bool) -> None:
    from ztcir_sdk.gallery.description import describe_index

    values = describe_index(index)
    if as_json:
        emit_json(values)
        return
    table(
        ("", ""), [(name.replace("_", " "), _shown(v)) for name, v in values.items()], header=False
    )


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return "none" if value is None else str(value)


def _fields(index: AnyIndex, *, as_json: bool) -> None:
    from ztcir_sdk.filters import summarise_fields

    found = summarise_fields(item.metadata for item in index.items())
    if as_json:
        emit_json({"index": str(index.path), "fields": [one.to_dict() for one in found]})
        return
    if not found:
        note(
            "The images have no metadata, so only path can be asked for: give a table with "
            "`ztcir index FOLDER --metadata TABLE`."
        )
    table(
        ("field", "kind", "images", "values"),
        [
            *((one.name, one.kind, f"{one.items}", _values(one)) for one in found),
            ("path", "text", f"{len(index)}", "relative to the collection"),
        ],
    )


def _values(one: FieldSummary) -> str:
    shown = ", ".join(str(value)[:30] for value in one.values)
    if one.least is not None and one.most is not None:
        return f"{one.least:g} to {one.most:g}"
    count = "more than a thousand" if one.distinct is None else one.distinct
    return f"{shown} ({count} in all)" if len(one.values) != one.distinct else shown


def _verify(index: AnyIndex, *, as_json: bool) -> None:
    damaged = index.verify()
    if as_json:
        emit_json({"index": str(index.path), "ok": not damaged, "problems": damaged})
        if damaged:
            raise click.exceptions.Exit(1)
        return
    if damaged:
        raise ZtcirError(" ".join(damaged))
    print_line(f"{index.path}: {len(index)} images, every checksum matches")


def _compact(index: AnyIndex, *, as_json: bool) -> None:
    from ztcir_sdk.gallery.description import stored_bytes

    before = stored_bytes(index)
    with index.edit() as writer:
        writer.commit(compact=True)
    after = stored_bytes(index)
    if as_json:
        emit_json({"index": str(index.path), "bytes_before": before, "bytes": after})
    elif before is None or after is None:
        print_line(f"{index.path}: Milvus compacts it in the background")
    else:
        print_line(
            f"{index.path}: {after / 1e6:.1f} MB, {max(0, before - after) / 1e6:.1f} MB freed"
        )


def _export(index: AnyIndex, path: Path, *, as_json: bool) -> None:
    from ztcir_sdk.gallery import export_vectors

    with progress_bar("Exporting") as progress:
        count = export_vectors(index, path, progress=progress)
    if as_json:
        emit_json({"index": str(index.path), "file": str(path.absolute()), "images": count})
    else:
        print_line(f"{path}: {count} images with their vectors")


def _remove(
    index: AnyIndex, paths: Sequence[str], where: str | None, *, prune: bool, as_json: bool
) -> None:
    from ztcir_sdk.gallery import remove_images

    count = remove_images(index, paths, where=where, prune=prune)
    if as_json:
        emit_json({"index": str(index.path), "removed": count, "total": len(index)})
        return
    print_line(f"{index.path}: {count} removed, {len(index)} images left")
    if count:
        note(
            "Their files stay, and the next `ztcir index` of the folder adds them again, unless "
            "they are deleted or left out with --exclude."
        )
