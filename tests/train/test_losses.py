"""Losses and hard negatives against hand-computed cases and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from train.stages.hard_negatives import Answers, candidate_pool, mine
from train.stages.losses import info_nce, multi_positive_nce, soft_text_alignment

seeds = st.integers(0, 10_000)
sizes = st.integers(1, 7)
many = settings(max_examples=40, deadline=None)


def random_case(seed: int, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, positives (at least one per row) and exclusions, in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 5
    positive = torch.rand(rows, columns, generator=generator) < 0.3
    positive[torch.arange(rows), torch.randint(columns, (rows,), generator=generator)] = True
    excluded = torch.rand(rows, columns, generator=generator) < 0.3
    return logits, positive, excluded


def unit(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def probabilities(row: Tensor, left_out: Tensor) -> dict[int, float]:
    """Return the softmax over the columns that are not left out."""
    weights = {
        column: math.exp(value) for column, value in enumerate(row.tolist()) if not left_out[column]
    }
    return {column: weight / sum(weights.values()) for column, weight in weights.items()}


# --- InfoNCE ------------------------------------------------------------------------------------


def test_info_nce_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    targets = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    # logits 10 * [[.6, .8], [.8, .6]]: the wrong one leads by 2 in each row and each column
    assert info_nce(queries, targets, 10).item() == pytest.approx(math.log(1 + math.exp(2)))


def test_info_nce_is_symmetric_and_counts_both_directions() -> None:
    queries, targets = unit(0, 5, 4), unit(1, 5, 4)
    logits = 7 * queries @ targets.T
    rows = sum(-math.log(probabilities(logits[i], torch.zeros(5))[i]) for i in range(5)) / 5
    columns = sum(-math.log(probabilities(logits[:, i], torch.zeros(5))[i]) for i in range(5)) / 5
    assert rows != pytest.approx(columns, abs=1e-3)
    assert info_nce(queries, targets, 7).item() == pytest.approx((rows + columns) / 2)
    assert info_nce(targets, queries, 7).item() == pytest.approx((rows + columns) / 2)


@many
@given(seeds, sizes)
def test_info_nce_does_not_depend_on_the_order_of_a_batch(seed: int, count: int) -> None:
    queries, targets = unit(seed, count, 3), unit(seed + 1, count, 3)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    shuffled = info_nce(queries[order], targets[order], 20.0)
    torch.testing.assert_close(shuffled, info_nce(queries, targets, 20.0))


# --- several positives --------------------------------------------------------------------------


def test_multi_positive_by_hand() -> None:
    logits = torch.tensor([[math.log(2), math.log(1), math.log(1)]])  # 1/2, 1/4, 1/4
    positive = torch.tensor([[True, True, False]])
    assert multi_positive_nce(logits, positive).item() == pytest.approx(
        (math.log(2) + math.log(4)) / 2
    )
    excluded = torch.tensor([[False, False, True]])  # 2/3, 1/3
    assert multi_positive_nce(logits, positive, excluded).item() == pytest.approx(
        (math.log(3 / 2) + math.log(3)) / 2
    )


@many
@given(seeds, sizes, sizes)
def test_with_one_positive_the_loss_is_cross_entropy(seed: int, rows: int, columns: int) -> None:
    logits, _, _ = random_case(seed, rows, columns)
    labels = torch.randint(columns, (rows,), generator=torch.Generator().manual_seed(seed))
    positive = F.one_hot(labels, columns).bool()
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(multi_positive_nce(logits, positive).double(), expected)


@many
@given(seeds, sizes, sizes)
def test_several_positives_against_plain_loops(seed: int, rows: int, columns: int) -> None:
    logits, positive, excluded = random_case(seed, rows, columns)
    each = []
    for row in range(rows):
        p = probabilities(logits[row], excluded[row] & ~positive[row])
        right = [column for column in range(columns) if positive[row, column]]
        each.append(sum(-math.log(p[column]) for column in right) / len(right))
    found = multi_positive_nce(logits, positive, excluded).item()
    assert found == pytest.approx(sum(each) / rows, rel=1e-5, abs=1e-6)


@many
@given(seeds, sizes, sizes)
def test_rows_and_columns_may_come_in_any_order(seed: int, rows: int, columns: int) -> None:
    logits, positive, excluded = random_case(seed, rows, columns)
    generator = torch.Generator().manual_seed(seed)
    down = torch.randperm(rows, generator=generator)
    across = torch.randperm(columns, generator=generator)
    moved = [part[down][:, across] for part in (logits, positive, excluded)]
    expected = multi_positive_nce(logits, positive, excluded)
    torch.testing.assert_close(multi_positive_nce(*moved), expected)


@many
@given(seeds, sizes, sizes)
def test_excluded_columns_are_left_out(seed: int, rows: int, columns: int) -> None:
    logits, positive, excluded = random_case(seed, rows, columns)
    gone = excluded & ~positive
    leaf = logits.clone().requires_grad_()
    loss = multi_positive_nce(leaf, positive, excluded)
    loss.backward()
    assert leaf.grad is not None
    assert not leaf.grad[gone].any()
    moved = torch.where(gone, logits + 50, logits)
    torch.testing.assert_close(multi_positive_nce(moved, positive, excluded), loss)


@many
@given(seeds, sizes, st.integers(2, 7))
def test_negatives_are_pushed_away_and_positives_pulled_as_a_whole(
    seed: int, rows: int, columns: int
) -> None:
    logits, positive, _ = random_case(seed, rows, columns)
    assume(not positive.all())
    leaf = logits.clone().requires_grad_()
    multi_positive_nce(leaf, positive).backward()
    assert leaf.grad is not None
    assert (leaf.grad[~positive] >= 0).all()
    assert (leaf.grad[~positive] > 0).any()
    assert (torch.where(positive, leaf.grad, 0).sum(dim=1) <= 1e-12).all()


def test_rows_without_a_positive_do_not_count() -> None:
    logits, positive, _ = random_case(3, 4, 5)
    positive[2] = False
    kept = torch.tensor([0, 1, 3])
    leaf = logits.clone().requires_grad_()
    loss = multi_positive_nce(leaf, positive)
    torch.testing.assert_close(loss, multi_positive_nce(logits[kept], positive[kept]))
    loss.backward()
    assert leaf.grad is not None
    assert not leaf.grad[2].any()


def test_losses_stay_finite_at_the_largest_logits_in_half_precision() -> None:
    logits = torch.tensor([[100.0, -100.0, 100.0]], dtype=torch.bfloat16)
    positive = torch.tensor([[False, True, False]])
    excluded = torch.tensor([[False, False, True]])
    assert multi_positive_nce(logits, positive, excluded).item() == pytest.approx(200, rel=0.01)


# --- soft text alignment ------------------------------------------------------------------------


def test_soft_alignment_by_hand() -> None:
    texts = torch.eye(2)
    target = torch.tensor([[1.0, 0.0]])  # softmax((1, 0) / (1/ln 3)) = (3/4, 1/4)
    query = torch.tensor([[0.0, 0.0]])  # says nothing: (1/2, 1/2)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = soft_text_alignment(query, texts, target, 0.05, 1 / math.log(3))
    assert found.item() == pytest.approx(expected, rel=1e-5)


@many
@given(seeds, sizes, sizes)
def test_soft_alignment_is_the_mean_divergence_from_the_target(
    seed: int, rows: int, columns: int
) -> None:
    queries, texts, targets = (unit(seed + i, n, 4) for i, n in enumerate((rows, columns, rows)))
    nothing = torch.zeros(columns)
    divergences = []
    for query, target in zip(queries, targets, strict=True):
        p = probabilities(texts @ target / 0.2, nothing)
        q = probabilities(texts @ query / 0.1, nothing)
        divergences.append(sum(p[i] * math.log(p[i] / q[i]) for i in p))
    found = soft_text_alignment(queries, texts, targets, 0.1, 0.2).item()
    assert found == pytest.approx(sum(divergences) / rows, abs=1e-6)
    assert found >= -1e-9


@many
@given(seeds, sizes, sizes)
def test_soft_alignment_vanishes_if_query_and_target_are_equal(
    seed: int, rows: int, columns: int
) -> None:
    queries, texts = unit(seed, rows, 4), unit(seed + 1, columns, 4)
    leaf = queries.clone().requires_grad_()
    loss = soft_text_alignment(leaf, texts, queries, 0.07, 0.07)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1e-8


def test_soft_alignment_falls_as_a_query_nears_its_target() -> None:
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([[1.0, 0.0]])
    near, far = torch.tensor([[0.8, 0.6]]), torch.tensor([[0.6, 0.8]])
    losses = [soft_text_alignment(q, texts, target, 0.1, 0.1).item() for q in (target, near, far)]
    assert losses == sorted(losses)
    assert losses[0] < losses[1] < losses[2]


# --- hard negatives -----------------------------------------------------------------------------


def answers_of(
    seed: int, rows: int, gallery: Tensor, threshold: float
) -> tuple[Answers, list[set[int]]]:
    """Answers, and what must be ignored of the whole gallery, found one number at a time."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(rows, len(gallery), generator=generator) < 0.3
    targets = unit(seed + 1, rows, 3)
    references = torch.randint(len(gallery), (rows,), generator=generator)
    pairs = known.nonzero()
    answers = Answers(pairs[:, 0], pairs[:, 1], targets, references, threshold)
    ignored = [
        {
            place
            for place, image in enumerate(gallery.tolist())
            if (
                known[row, place]
                or sum(a * b for a, b in zip(target, image, strict=True)) >= threshold
            )
            and place != references[row]
        }
        for row, target in enumerate(targets.tolist())
    ]
    assume(((targets @ gallery.T - threshold).abs() > 1e-9).all())
    return answers, ignored


@many
@given(seeds, sizes, st.integers(1, 12), st.floats(-0.5, 1), st.data())
def test_right_answers_and_near_duplicates_are_ignored_but_never_the_reference(
    seed: int, rows: int, gallery_size: int, threshold: float, data: st.DataObject
) -> None:
    gallery = unit(seed, gallery_size, 3)
    answers, ignored = answers_of(seed, rows, gallery, threshold)
    some = data.draw(st.sets(st.integers(0, gallery_size - 1), min_size=1))
    columns = torch.tensor(sorted(some))
    right, found = answers.right(columns), answers.ignored(gallery[columns], columns)
    known = set(zip(answers.queries.tolist(), answers.positions.tolist(), strict=True))
    for row in range(rows):
        for column, place in enumerate(columns.tolist()):
            assert bool(right[row, column]) == ((row, place) in known)
            assert bool(found[row, column]) == (place in ignored[row])


@many
@given(seeds, sizes, st.integers(2, 12), st.integers(1, 15), st.integers(1, 13))
def test_mine_gives_the_nearest_wrong_images_whatever_the_chunk(
    seed: int, rows: int, gallery_size: int, count: int, chunk: int
) -> None:
    queries, gallery = unit(seed, rows, 3), unit(seed + 2, gallery_size, 3)
    answers, ignored = answers_of(seed, rows, gallery, 0.7)
    mined = mine(queries, gallery, answers, count, chunk=chunk)
    assert mined.shape == (rows, min(count, gallery_size))
    for row in range(rows):
        wrong = [place for place in range(gallery_size) if place not in ignored[row]]
        wrong.sort(key=lambda place: -float(queries[row] @ gallery[place]))
        # where there are fewer wrong images than leaf for, the right ones come last
        assert mined[row, : len(wrong)].tolist() == wrong[:count]


@many
@given(seeds, sizes, st.integers(2, 12), st.integers(1, 15), st.floats(0.1, 1.0))
def test_what_scores_like_the_target_is_mined_after_all_else(
    seed: int, rows: int, gallery_size: int, count: int, share: float
) -> None:
    queries, gallery = unit(seed, rows, 3), unit(seed + 2, gallery_size, 3)
    answers, ignored = answers_of(seed, rows, gallery, 0.7)
    scores = queries @ gallery.T
    own = (queries * answers.targets).sum(-1, keepdim=True)
    assume(((scores - share * own).abs() > 1e-6).all())
    mined = mine(queries, gallery, answers, count, positive_aware=share)
    for row, reference in enumerate(answers.references.tolist()):
        wrong = [place for place in range(gallery_size) if place not in ignored[row]]
        likely = {
            place for place in wrong if scores[row, place] > share * own[row] and place != reference
        }
        wrong.sort(key=lambda place: (place in likely, -float(scores[row, place])))
        assert mined[row, : len(wrong)].tolist() == wrong[:count]


def test_mining_has_no_gradient() -> None:
    queries = unit(0, 2, 3).requires_grad_()
    gallery = unit(1, 5, 3)
    nothing = torch.zeros(0, dtype=torch.int64)
    answers = Answers(nothing, nothing, unit(2, 2, 3), torch.tensor([0, 1]))
    assert not mine(queries, gallery, answers, 3).requires_grad


@many
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    st.none() | st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=1),
)
def test_the_pool_holds_everything_once_and_the_references_always(
    targets: list[int], references: list[int], mined: list[list[int]] | None
) -> None:
    pool = candidate_pool(
        torch.tensor(targets),
        torch.tensor(references),
        None if mined is None else torch.tensor(mined),
    )
    wanted = {*targets, *references, *(place for row in mined or [] for place in row)}
    assert pool.tolist() == sorted(wanted)
