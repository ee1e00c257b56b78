"""Models by name: ``fashion-lite``, a folder, or ``hf://org/repo@revision``.

A model of the hub is downloaded once, into a folder of the user's cache. Only the files that its
manifest lists are fetched, and every one is checked by the manifest's checksums.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ztcir_sdk.bundle import MANIFEST, Bundle, embedded_names, read_manifest
from ztcir_sdk.errors import UsageError, ZtcirError, first_line
from ztcir_sdk.files import flush_file, folder_whole
from ztcir_sdk.hub.card import CARD, OWN_NAME, hub_card

__all__ = [
    "HUB_PREFIX",
    "HubName",
    "ModelEntry",
    "list_models",
    "load_model",
    "model_folder",
    "pull_model",
    "push_model",
    "remove_model",
]

HUB_PREFIX = "hf://"
MODELS_VARIABLE = "ZTCIR_MODELS"
"""Folder of downloaded models; by default in the user's cache."""
OFFLINE_VARIABLE = "ZTCIR_OFFLINE"
"""If set to anything but 0, nothing is downloaded."""
ENDPOINT_VARIABLE = "HF_ENDPOINT"
"""Another hub than huggingface.co, such as a mirror."""
_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")
_SEPARATOR = "--"


@dataclass(frozen=True)
class HubName:
    """A model of the hub: ``hf://org/repo@revision``."""

    organisation: str
    repository: str
    revision: str = "main"
    """Branch, tag or commit."""

    @classmethod
    def parse(cls, name: str) -> HubName:
        """Read a name with the prefix.

        Raises:
            UsageError: it is malformed.
        """
        found = _NAME.fullmatch(name.removeprefix(HUB_PREFIX))
        if found is None or ".." in name or _SEPARATOR in name:
            raise UsageError(f"{name!r} is not a model of the hub: write hf://org/repo@revision.")
        return cls(found[1], found[2], found[3] or "main")

    @property
    def repo_id(self) -> str:
        """Its name on the hub."""
        return f"{self.organisation}/{self.repository}"

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.repo_id}@{self.revision}"

    @property
    def folder(self) -> Path:
        """Where it is once it is downloaded."""
        parts = (self.organisation, self.repository, self.revision.replace("/", "%2F"))
        return models_folder() / _SEPARATOR.join(parts)


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be used without a download."""

    name: str
    path: Path
    megabytes: float
    embedded: bool
    """Whether it is inside the package."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "name": self.name,
            "path": str(self.path),
            "megabytes": self.megabytes,
            "embedded": self.embedded,
        }


def models_folder() -> Path:
    """Return the folder of downloaded models: ``$ZTCIR_MODELS``, else in the user's cache."""
    if named := os.environ.get(MODELS_VARIABLE):
        return Path(named).absolute()
    from platformdirs import user_cache_path  # rarely needed, so not at import

    return Path(user_cache_path("ztcir")) / "models"


def load_model(name: str | os.PathLike[str], *, anew: bool = False) -> Bundle:
    """Load a bundle by its name, its folder, or ``hf://org/repo@revision``.

    A model of the hub is downloaded if it is not on this machine; `pull_model` updates it.

    Args:
        name: the bundle; a `Path` is always a folder.
        anew: whether to read every file, whatever is remembered; see `Bundle.load`.

    Raises:
        UsageError: there is no such model.
        BundleError: it is incomplete or altered.
        MissingDependencyError: the hub is needed, and its package is not installed.
        ZtcirError: it cannot be downloaded.
    """
    text = os.fspath(name)
    if text.startswith(HUB_PREFIX):
        folder = HubName.parse(text).folder
        return Bundle.load(folder, anew=anew) if folder.is_dir() else pull_model(text)
    if text in embedded_names() and not isinstance(name, os.PathLike):
        return Bundle.embedded(text, anew=anew)
    if isinstance(name, os.PathLike) or Path(text).is_dir() or os.sep in text or "/" in text:
        return Bundle.load(name, anew=anew)
    if not embedded_names():
        return Bundle.embedded(text)  # says what is wrong with the installation
    raise UsageError(
        f"There is no model {text!r}: choose from {', '.join(embedded_names())}, or give the "
        "folder of a bundle or hf://org/repo."
    )


def list_models() -> list[ModelEntry]:
    """Return the models inside the package, then the downloaded ones by name."""
    found = [_entry(name, Bundle.embedded(name, verify=False).path) for name in embedded_names()]
    folder = models_folder()
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            parts = path.name.split(_SEPARATOR)
            if len(parts) == 3 and (path / MANIFEST).is_file():
                name = HubName(parts[0], parts[1], parts[2].replace("%2F", "/"))
                found.append(_entry(str(name), path, embedded=False))
    return found


def _entry(name: str, path: Path, *, embedded: bool = True) -> ModelEntry:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return ModelEntry(name, path, round(size / 1e6, 1), embedded)


def model_folder(name: str) -> Path:
    """Return the folder of a model that is on this machine.

    Raises:
        UsageError: it is not.
    """
    for entry in list_models():
        if name == entry.name or (name.startswith(HUB_PREFIX) and _same(name, entry.name)):
            return entry.path
    raise UsageError(f"{name!r} is not on this machine: `ztcir models list` shows what is.")


def _same(name: str, other: str) -> bool:
    return other.startswith(HUB_PREFIX) and HubName.parse(name) == HubName.parse(other)


def remove_model(name: str) -> Path:
    """Delete a downloaded model; return the folder that it was in.

    Raises:
        UsageError: it is inside the package, or not on this machine.
    """
    folder = model_folder(name)
    if folder.parent != models_folder():
        raise UsageError(f"{name!r} is inside the package: only downloaded models can be removed.")
    shutil.rmtree(folder)
    return folder


def pull_model(name: str, *, progress: Callable[[int, int], None] | None = None) -> Bundle:
    """Download a model of the hub, or update it; a failure leaves what was there.

    Args:
        name: ``hf://org/repo@revision``.
        progress: called with the number of files done, and of all files.

    Raises:
        UsageError: the name is malformed.
        BundleError: what was downloaded is no bundle, or altered.
        MissingDependencyError: huggingface_hub is not installed.
        ZtcirError: the hub does not answer, has no such model, or nothing may be downloaded.
    """
    model = HubName.parse(name)
    if os.environ.get(OFFLINE_VARIABLE, "0") != "0":
        raise ZtcirError(
            f"{model} is not on this machine and ${OFFLINE_VARIABLE} is set: unset it, or copy the "
            f"bundle to {model.folder}."
        )
    folder = model.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as scratch:
        fetched = Path(scratch)
        commit = _find_commit(model)
        _fetch(model, MANIFEST, fetched, commit)
        files = list(read_manifest(fetched).files)
        for done, file in enumerate(files, start=1):
            _fetch(model, file, fetched, commit)
            if progress is not None:
                progress(done, len(files))
        bundle = Bundle.load(fetched, anew=True)
        with folder_whole(folder) as fresh:
            for file in (MANIFEST, *bundle.manifest.files):
                (fresh / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fetched / file, fresh / file)
                flush_file(fresh / file)
    return Bundle.load(folder, verify=False)  # every byte was checked before it was copied


def _find_commit(model: HubName) -> str:
    """Return the commit that the model's revision is now, so that all files are of one."""
    import huggingface_hub

    address = huggingface_hub.hf_hub_url(
        model.repo_id, MANIFEST, revision=model.revision, endpoint=_endpoint()
    )
    with _sentences(model, MANIFEST):
        commit = huggingface_hub.get_hf_file_metadata(address).commit_hash
    return str(commit or model.revision)


def _fetch(model: HubName, file: str, folder: Path, commit: str) -> None:
    """Download one file of a commit."""
    import huggingface_hub

    with _sentences(model, file):
        huggingface_hub.hf_hub_download(
            model.repo_id, file, revision=commit, local_dir=folder, endpoint=_endpoint()
        )


@contextlib.contextmanager
def _sentences(model: HubName, file: str) -> Iterator[None]:
    """Say what is wrong where a download fails."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "")
        reason: dict[object, str] = {
            401: "it needs a token: log in with `hf auth login`",
            404: "it does not exist",
        }
        raise ZtcirError(
            f"{file} of {model} cannot be downloaded ({reason.get(status, first_line(error))}): "
            "check the name."
        ) from error
    except Exception as error:  # httpx's and the hub's own, when no network is there
        if not _is_of_the_network(error):
            raise
        raise ZtcirError(
            f"{model} cannot be downloaded ({first_line(error)}): check the network."
        ) from error


def _is_of_the_network(error: Exception) -> bool:
    modules = {kind.__module__ for kind in type(error).__mro__}
    clients = ("httpx", "httpcore", "huggingface_hub", "requests")
    return isinstance(error, OSError) or any(name.startswith(clients) for name in modules)


def _endpoint() -> str | None:
    return os.environ.get(ENDPOINT_VARIABLE) or None


def push_model(bundle: Bundle, name: str, *, private: bool = True) -> str:
    """Upload a bundle to the hub, with a model card; return its address.

    Args:
        bundle: the bundle.
        name: ``hf://org/repo@branch``.
        private: whether a new repository is private.

    Raises:
        UsageError: the name is malformed.
        MissingDependencyError: huggingface_hub is not installed.
        ZtcirError: the hub refuses it, or does not answer.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    model = HubName.parse(name)
    api = huggingface_hub.HfApi(endpoint=_endpoint())
    operations = [
        huggingface_hub.CommitOperationAdd(file, str(bundle.path / file))
        for file in (*bundle.manifest.files, MANIFEST)
    ]
    card = _card_of(bundle, str(model).removesuffix("@main")).encode()
    operations.append(huggingface_hub.CommitOperationAdd(CARD, card))
    try:
        api.create_repo(model.repo_id, private=private, exist_ok=True)
        made = api.create_commit(
            model.repo_id,
            operations,
            commit_message=f"Upload the bundle {bundle.name}",
            revision=model.revision,
        )
    except HfHubHTTPError as error:
        raise ZtcirError(
            f"{bundle.name} cannot be uploaded to {model} ({first_line(error)}): log in with `hf "
            "auth login`, and check the name."
        ) from error
    except Exception as error:
        if not _is_of_the_network(error):
            raise
        raise ZtcirError(
            f"{bundle.name} cannot be uploaded to {model} ({first_line(error)}): check the network."
        ) from error
    return str(made.commit_url)


def _card_of(bundle: Bundle, name: str) -> str:
    """Return the bundle's own card, which its author may have changed, or a new one."""
    own = bundle.path / CARD
    if own.is_file():
        return own.read_text(encoding="utf-8").replace(OWN_NAME, name)
    return hub_card(bundle.manifest, name)
