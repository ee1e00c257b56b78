"""The graphs of a bundle, each loaded when it is first needed, or a little earlier."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ztcir_sdk.bundle.bundle import Bundle
from ztcir_sdk.bundle.graph_source import graph_source
from ztcir_sdk.bundle.manifest import GraphVariant
from ztcir_sdk.names import GRAPHS, TEXT_ENCODER
from ztcir_sdk.runtime import Graph, OnnxGraph, RuntimeSettings, open_graph
from ztcir_sdk.runtime.protocol import check_declared

__all__ = ["LoadedGraphs"]

LOGGER = logging.getLogger("ztcir.encoder")


class LoadedGraphs:
    """Loads the graphs of a bundle. Threads may share one."""

    def __init__(
        self, bundle: Bundle, variants: Mapping[str, GraphVariant], settings: RuntimeSettings
    ) -> None:
        """Load these variants with settings whose device is resolved."""
        self._bundle = bundle
        self._variants = variants
        self._settings = settings
        self._loaded: dict[str, Graph] = {}
        self._locks = {name: threading.Lock() for name in GRAPHS}

    def graph(self, name: str) -> Graph:
        """Return a graph, loaded at the first call; see `ztcir_sdk.encoder.Encoder.graph`."""
        if (loaded := self._loaded.get(name)) is not None:
            return loaded
        with self._locks[name]:
            if name not in self._loaded:
                self._loaded[name] = self.open(name)
            return self._loaded[name]

    def open(self, name: str, *, threads: int | None = None) -> Graph:
        """Load a graph anew, with another number of threads; see `Encoder.open_graph`."""
        variant = self._variants.get(name) or self._bundle.variant(name)
        source = graph_source(self._bundle, name, variant)
        settings = self._settings if threads is None else replace(self._settings, threads=threads)
        start = time.perf_counter()
        graph = open_graph(source, settings)
        if isinstance(graph, OnnxGraph):  # an engine is made from a graph that was checked
            check_declared(graph, variant.inputs, variant.outputs)
        spent = 1000 * (time.perf_counter() - start)
        LOGGER.debug("loaded %s on %s in %.0f ms", name, settings.device, spent)
        return graph

    def preload(self, names: Sequence[str]) -> None:
        """Start to load graphs on the CPU, the text encoder beside the others; return at once.

        ONNX Runtime loads without Python's lock, so an image or a vocabulary can be read meanwhile.
        An error is raised by `graph`, which then loads again.
        """
        if self._settings.device != "cpu":
            return
        missing = [name for name in names if name in self._variants and name not in self._loaded]
        for of_texts in (True, False):
            if some := [name for name in missing if (name == TEXT_ENCODER) == of_texts]:
                threading.Thread(target=self._load_quietly, args=(some,)).start()

    def _load_quietly(self, names: Sequence[str]) -> None:
        with contextlib.suppress(Exception):
            for name in names:
                self.graph(name)
