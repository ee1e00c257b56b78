"""What a public benchmark consists of, and how each of them is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from ztcir_sdk.errors import UsageError
from ztcir_sdk.evaluation.benchmarks.embedding_run import EmbeddingRun, Method
from ztcir_sdk.evaluation.benchmarks.queries import Annotations, Q
from ztcir_sdk.evaluation.benchmarks.report import BenchmarkReport, RankedPart, Scores, first_hits


@dataclass(frozen=True)
class Outcome:
    """The result of one method."""

    ranked: Sequence[RankedPart]
    """The rankings from which queries are shown with their hits."""
    scores: Scores = field(default_factory=dict)
    submissions: Mapping[str, Any] = field(default_factory=dict)
    """Name of a file for the benchmark's server -> its content, as JSON values."""


@dataclass(frozen=True)
class Benchmark(Generic[Q]):
    """A public benchmark."""

    name: str
    """Name of its module and of its command."""
    title: str
    help: str
    """What is measured and how, for `--help`."""
    download_help: str
    """Where the data set comes from, and which files its folder contains."""
    read: Callable[[Path, str], Annotations[Q]]
    """Reads the annotations of a split in the data set's folder.

    Raises `ZtcirError` if they are missing, damaged, or contradict each other."""
    score: Callable[[EmbeddingRun, Annotations[Q], Method], Outcome]
    """Encodes and ranks the queries by one method; the images are already encoded."""
    splits: tuple[str, ...] = ("val",)
    """A split "test" has no published targets and gives submissions."""
    split_help: str = ""
    """What --split test writes, or why there is no such split."""
    plain_method: Callable[[Method], Method] = lambda method: method
    """Replaces the slots of a method's prompt that only this benchmark knows."""

    def evaluate(
        self,
        run: EmbeddingRun,
        root: Path,
        methods: Sequence[Method],
        *,
        split: str = "val",
        answers: int = 0,
    ) -> BenchmarkReport:
        """Score several methods, or make the submissions of one.

        Args:
            run: the bundle and its cache.
            root: the data set's folder; see `download_help`.
            methods: the methods to measure; only one for the split "test".
            split: one of `splits`.
            answers: number of queries to return with the hits of the first method.

        Raises:
            UsageError: the split does not exist, or a method or its prompt is wrong.
            UnusableImagesError: images are missing or broken.
            ZtcirError: the annotations are missing, damaged, or contradict each other; or the
                bundle does not support a method.
        """
        if split not in self.splits:
            raise UsageError(
                f"{self.title} has no split {split!r}: choose {' or '.join(self.splits)} "
                f"({self.split_help})."
            )
        if split == "test" and len(methods) > 1:
            raise UsageError("A submission is for one method: choose it with --method.")
        plain = [self.plain_method(method) for method in methods]
        annotations = self.read(root, split)
        parts = annotations.parts.values()
        run.check(plain, next(iter(parts)).queries[0].text)
        run.embed(annotations.images)

        outcomes = {method.name: self.score(run, annotations, method) for method in methods}
        first = outcomes[methods[0].name]
        per_part = -(-answers // len(first.ranked))
        return BenchmarkReport(
            benchmark=self.name,
            split=split,
            queries=sum(len(part.queries) for part in parts),
            gallery=len({image for part in parts for image in part.gallery}),
            prompt=methods[0].prompt,
            scores={name: one.scores for name, one in outcomes.items() if one.scores},
            answers=[
                answer
                for ranked in first.ranked
                for answer in first_hits(ranked, methods[0].name, per_part, run.mapped_prompt)
            ],
            submissions=first.submissions,
            notes=annotations.notes,
        )
