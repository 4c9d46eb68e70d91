"""The masked loss against hand computation; what is not labelled moves nothing."""

from __future__ import annotations

import math

import pytest
import torch

from moslim_core.reward.heads import ClassificationHead, OrdinalHead, RegressionHead, TwoHotHead
from moslim_core.reward.losses import Choices, choice_loss, masked_loss, ranking_loss

HEADS = {"x": ClassificationHead(2, 2), "y": ClassificationHead(2, 3), "z": ClassificationHead(2, 5)}
ONES = {name: torch.ones(3) for name in HEADS}
# Of three rows x is labelled in two and y in all: the coverage of data that are these rows.
COVERAGE = {"x": 2 / 3, "y": 1.0, "z": 0.0}


def inputs() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    logits = {
        # softmax of (log a, log b) is (a, b) / (a + b).
        "x": torch.tensor([[1.0, 3.0], [1.0, 1.0], [1.0, 4.0]]).log().requires_grad_(),
        "y": torch.tensor([[1.0, 1.0, 2.0], [1.0, 2.0, 1.0], [8.0, 1.0, 1.0]]).log().requires_grad_(),
        "z": torch.zeros(3, 5, requires_grad=True),
    }
    return logits, {"x": torch.tensor([1, 0, 2]), "y": torch.tensor([3, 2, 1]), "z": torch.tensor([0, 0, 0])}


def test_sum_over_heads_of_means_over_labelled_rows() -> None:
    logits, levels = inputs()
    # x: -log 1/4 and -log 4/5 over 2 rows; y: -log 2/4, -log 2/4 and -log 8/10 over 3; z: nothing labelled.
    x = (math.log(4) + math.log(5 / 4)) / 2
    y = (2 * math.log(2) + math.log(10 / 8)) / 3
    assert masked_loss(HEADS, logits, levels, ONES, COVERAGE).item() == pytest.approx(x + y, rel=1e-6)


def test_rows_weigh_what_they_are_given() -> None:
    logits, levels = inputs()
    weights = {**ONES, "x": torch.tensor([1.5, 0.0, 0.5])}
    x = (1.5 * math.log(4) + 0.5 * math.log(5 / 4)) / 2
    y = (2 * math.log(2) + math.log(10 / 8)) / 3
    assert masked_loss(HEADS, logits, levels, weights, COVERAGE).item() == pytest.approx(x + y, rel=1e-6)


def test_what_is_not_labelled_has_no_gradient() -> None:
    logits, levels = inputs()
    masked_loss(HEADS, logits, levels, ONES, COVERAGE).backward()
    # (p - one-hot) / labelled rows.
    assert logits["x"].grad.tolist()[0] == pytest.approx([(0.25 - 1) / 2, 0.75 / 2])
    assert logits["x"].grad[1].tolist() == [0, 0]
    # A head without a label is part of the graph all the same.
    assert logits["z"].grad is not None
    assert not logits["z"].grad.any()


def test_batch_without_any_label_gives_zero() -> None:
    logits, levels = inputs()
    loss = masked_loss(HEADS, logits, {n: torch.zeros_like(v) for n, v in levels.items()}, ONES, COVERAGE)
    loss.backward()
    assert loss.item() == 0
    assert all(v.grad is not None and not v.grad.any() for v in logits.values())


def test_head_types_mix_and_weights_weigh_any_of_them() -> None:
    heads = {"x": ClassificationHead(2, 2), "y": RegressionHead(2, 3)}
    outputs = {"x": torch.tensor([[1.0, 3.0], [1.0, 1.0]]).log(), "y": torch.tensor([[2.0], [1.5]])}
    levels = {"x": torch.tensor([1, 0]), "y": torch.tensor([3, 1])}
    weights = {"x": torch.tensor([1.0, 0.0]), "y": torch.tensor([0.5, 1.5])}
    # x: one of two rows, log 4, where half of the rows are labelled. y: squared errors 1 (weight 0.5) and 1/4 (weight 1.5).
    found = masked_loss(heads, outputs, levels, weights, {"x": 0.5, "y": 1.0})
    assert found.item() == pytest.approx(math.log(4) + (0.5 + 1.5 / 4) / 2)


def test_batches_add_up_to_the_loss_of_all_rows() -> None:
    """Whatever the batches: a lonely label weighs as much beside unlabelled rows as beside labelled ones."""
    logits, levels = inputs()
    whole = masked_loss(HEADS, logits, levels, ONES, COVERAGE)
    parts = [
        masked_loss(
            HEADS,
            {n: v[[i]] for n, v in logits.items()},
            {n: v[[i]] for n, v in levels.items()},
            {n: v[[i]] for n, v in ONES.items()},
            COVERAGE,
        )
        for i in range(3)
    ]
    assert (sum(parts) / 3).item() == pytest.approx(whole.item())


def test_ranking_loss_is_over_pairs_of_high_and_low() -> None:
    """K = 5: levels 4 and 5 against 1 and 2; the middle counts for neither.

    Scores 0.75 and 0.5 against 0.25: softplus(-8 x 0.5) and softplus(-8 x 0.25).
    """
    scores = torch.tensor([0.75, 0.25, 0.9, 0.5], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([5, 2, 3, 4]), 5)
    assert loss.item() == pytest.approx((math.log1p(math.exp(-4)) + math.log1p(math.exp(-2))) / 2, rel=1e-6)
    loss.backward()
    low, middle = scores.grad[1], scores.grad[2]
    assert low > 0 == middle > scores.grad[3]
    assert ranking_loss(scores, torch.tensor([5, 4, 3, 4]), 5).item() == 0


def test_ranking_loss_counts_beside_cross_entropy_as_often_as_its_head_is_labelled() -> None:
    logits, levels = inputs()
    plain = masked_loss(HEADS, logits, levels, ONES, COVERAGE).item()
    # x: rows 1 (level 1 of 2, score 3/4) and 3 (level 2, score 4/5), all that its data have on average: share 1.
    # y: rows 1 (level 3, p = 1/4, 1/4, 1/2) and 3 (level 1, p = 8/10, 1/10, 1/10): scores 5/8 and 3/20.
    x = math.log1p(math.exp(-8 * (4 / 5 - 3 / 4)))
    y = math.log1p(math.exp(-8 * (5 / 8 - 3 / 20)))
    found = masked_loss(HEADS, logits, levels, ONES, COVERAGE, ranking_weight=0.3).item()
    assert found == pytest.approx(plain + 0.3 * (x + y), rel=1e-5)


def test_a_level_between_two_reaches_the_heads_that_can_learn_from_it() -> None:
    """2.5 is half of level 2 and half of level 3 for two-hot, itself for regression, and level 3 for the others."""
    outputs = {"a": torch.tensor([[1.0, 1.0, 2.0]]).log(), "b": torch.tensor([[1.0, 1.0, 2.0]]).log(), "c": torch.tensor([[2.0]])}
    heads = {"a": ClassificationHead(2, 3), "b": TwoHotHead(2, 3), "c": RegressionHead(2, 3)}
    found = {
        name: masked_loss(
            {name: heads[name]}, {name: outputs[name]}, {name: torch.tensor([2.5])}, {name: torch.ones(1)}, {name: 1.0}
        ).item()
        for name in heads
    }
    assert found == pytest.approx({"a": math.log(2), "b": (math.log(4) + math.log(2)) / 2, "c": 0.25})
    ordinal, one = OrdinalHead(2, 3), {"a": torch.tensor([[-1.0, 1.0]])}
    whole, between = (
        masked_loss({"a": ordinal}, one, {"a": torch.tensor([level])}, {"a": torch.ones(1)}, {"a": 1.0}) for level in (3, 2.5)
    )
    assert whole.item() == between.item()


def test_choices_move_the_scores_of_two_answers_apart_and_say_no_level() -> None:
    """Two rows and the two answers that they were chosen over; of y low levels are the better ones.

    x: scores 3/4 and 1/2, softplus(-8 x 1/4). y: 0.625 and 0.15, the chosen one higher: softplus(8 x 0.475). Each is a choice of two
    rows, as half of the data are.
    """
    heads = {"x": HEADS["x"], "y": HEADS["y"]}
    outputs = {
        "x": torch.tensor([[1.0, 3.0], [1.0, 9.0], [1.0, 1.0], [1.0, 2.0]]).log().requires_grad_(),
        "y": torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [1.0, 5.0, 1.0], [8.0, 1.0, 1.0]]).log().requires_grad_(),
    }
    choices = Choices(torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([0, 1]), (1.0, -1.0), (0.5, 0.5))
    loss = choice_loss(heads, outputs, choices, rows=2)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)) + math.log1p(math.exp(8 * 0.475)), rel=1e-5)
    loss.backward()
    x, y = outputs["x"].grad, outputs["y"].grad
    assert x[0, 1] < 0 < x[2, 1] and not x[1].any() and not x[3].any(), "the chosen answer's high level, and no other row of x"
    assert y[1, 2] > 0 > y[3, 2] and not y[0].any() and not y[2].any()
    none = Choices(*torch.zeros((0, 3), dtype=torch.long).unbind(dim=1), (1.0, -1.0), (0.0, 0.0))
    assert choice_loss(heads, outputs, none, rows=2).item() == 0
