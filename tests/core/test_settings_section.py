"""Changing settings checks them again."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from moslim_core.policy.settings import PolicySettings
from moslim_core.settings_section import changed


def test_a_change_is_checked_with_the_rest() -> None:
    policy = PolicySettings(credit="token")
    assert changed(policy, steps=7) == PolicySettings(credit="token", steps=7)
    with pytest.raises(ValidationError, match="credit=token, but with max_new_tokens=1 there is one token to credit"):
        changed(policy, max_new_tokens=1)
    with pytest.raises(ValidationError, match="takes the best of whole answers: with credit=token set it to 0"):
        changed(policy, imitation=0.1)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        changed(policy, steps=0)


def test_a_name_that_is_not_there_is_no_change() -> None:
    with pytest.raises(TypeError, match="PolicySettings has no step"):
        changed(PolicySettings(), step=3)


def test_a_kl_target_needs_a_weight_that_it_can_steer() -> None:
    with pytest.raises(ValidationError, match="beta=0 stays 0"):
        PolicySettings.model_validate({"optimiser": "ppo", "beta": 0, "ppo": {"kl_target": 3.0}})
    assert PolicySettings.model_validate({"optimiser": "rloo", "beta": 0, "ppo": {"kl_target": 3.0}}).beta == 0
