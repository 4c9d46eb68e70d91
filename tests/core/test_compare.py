"""What `moslim compare` takes on its command line."""

from __future__ import annotations

import pytest

from flows.cli.compare_arguments import last_stage, parse_baselines, parse_over, parse_search, parse_seeds
from moslim_core.baselines import methods
from moslim_core.errors import UserError


def test_over_and_seeds() -> None:
    assert parse_over("reward.head=classification, ordinal") == ("reward.head", ["classification", "ordinal"])
    assert parse_seeds("0, 2") == [0, 2]


@pytest.mark.parametrize("over", ["reward.head", "reward.head=ordinal", "reward.head=ordinal,ordinal"])
def test_one_value_is_no_comparison(over: str) -> None:
    with pytest.raises(UserError, match="at least two different values"):
        parse_over(over)


@pytest.mark.parametrize("seeds", ["", "a", "1,1", "-1", "²", "٣,1"])
def test_bad_seeds(seeds: str) -> None:
    with pytest.raises(UserError, match="different whole numbers"):
        parse_seeds(seeds)


def test_searched_factors() -> None:
    assert parse_search("0.5, 1,2") == [0.5, 1, 2]
    for text in ("", "1", "1,1", "0,1", "1,many", "1,inf", "1,nan"):
        with pytest.raises(UserError, match="at least two different factors"):
            parse_search(text)


def test_last_stage() -> None:
    assert last_stage("reward.head", None) == last_stage("data.limit", None) == "train_reward"
    assert last_stage("mapping.utility", None) == last_stage("reward.head", "evaluate") == "evaluate"
    with pytest.raises(UserError, match="after train_reward or evaluate"):
        last_stage("reward.head", "label")


def test_baselines_are_known_names_and_the_starting_model_is_always_there() -> None:
    assert parse_baselines("all") == list(methods())
    assert parse_baselines("moslim_ppo, morlhf") == ["prompt_only", "morlhf", "moslim_ppo"]
    for text in ("", "magic", "morlhf,magic"):
        with pytest.raises(UserError, match="write all, or some of prompt_only"):
            parse_baselines(text)
