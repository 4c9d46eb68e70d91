"""A plan of one's own rows on models of any size, before there is anything to reuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows import profile
from flows.cli import init_profile
from moslim_core.errors import UserError
from moslim_core.registry import baseline
from moslim_core.settings_section import changed
from tasks.planning.plan import plan, size_of
from tasks.planning.plan_comparison import plan_comparison
from tests.core.test_first_profile import rows, table


def test_the_plan_of_ones_own_rows(tmp_path: Path, tiny_chat: Path, tiny_encoder: Path) -> None:
    init_profile.write(table(tmp_path / "own.csv", rows()), tmp_path / "mine.yaml")
    settings = profile.load(str(tmp_path / "mine.yaml"), [f"work_dir={tmp_path / 'work'}", "policy.max_prompt_tokens=400"])
    settings = changed(
        settings, model=changed(settings.model, base=str(tiny_chat)), reward=changed(settings.reward, backbone=str(tiny_encoder))
    )
    found = plan(settings)
    assert [s.name for s in found.stages] == ["label", "train_reward", "train_policy", "train_judge", "evaluate", "report"]
    assert not any(s.reused for s in found.stages)
    assert found.seconds == pytest.approx(sum(s.seconds for s in found.stages), abs=1)
    assert 0 < found.memory_gb < 4 and 0 < found.disk_gb < 1
    # A look costs nothing: no run, no rows.
    assert not (tmp_path / "work" / "mlflow").exists() and not (tmp_path / "work" / "stages").exists()


def test_the_plan_for_a_gpu_that_is_not_here(tmp_path: Path, tiny_chat: Path, tiny_encoder: Path) -> None:
    init_profile.write(table(tmp_path / "own.csv", rows()), tmp_path / "mine.yaml")
    models = [f"model.base={tiny_chat}", f"reward.backbone={tiny_encoder}", f"work_dir={tmp_path / 'work'}"]
    settings = profile.load(str(tmp_path / "mine.yaml"), [*models, "model.device=cuda", "policy.max_prompt_tokens=400"])
    slow, fast = (plan(settings, card) for card in ("l4", "h100"))
    assert (slow.device, slow.memory_free_gb, fast.memory_free_gb) == ("l4", 24, 80) and "not here" in slow.how
    # Of models this small a GPU's speed tells nothing.
    assert slow.seconds >= fast.seconds and slow.memory_gb == fast.memory_gb == max(s.memory_gb for s in slow.stages)
    with pytest.raises(UserError, match="--on gt-9: no such GPU is known here"):
        plan(settings, "gt-9")


@pytest.mark.parametrize("name", list(baseline.own))
@pytest.mark.parametrize("packaged", profile.packaged())
def test_every_compared_system_can_be_planned_and_trained_by_every_packaged_profile(name: str, packaged: str) -> None:
    settings = profile.load(packaged, [])
    method = baseline[name]
    method.require_fit(settings)
    assert method.training(settings.policy).steps >= 1


def test_the_plan_of_a_comparison(tmp_path: Path, tiny_chat: Path, tiny_encoder: Path) -> None:
    init_profile.write(table(tmp_path / "own.csv", rows()), tmp_path / "mine.yaml")
    settings = profile.load(str(tmp_path / "mine.yaml"), [f"work_dir={tmp_path / 'work'}", "policy.max_prompt_tokens=400"])
    settings = changed(
        settings, model=changed(settings.model, base=str(tiny_chat)), reward=changed(settings.reward, backbone=str(tiny_encoder))
    )
    names = ["prompt_only", "best_of_n", "cpo", "rlphf", "moslim_rloo"]
    found = plan_comparison(settings, names, [0, 1])
    assert [(s.name, s.seed) for s in found.systems] == [(name, seed) for seed in (0, 1) for name in names]
    assert not any(s.reused for s in found.systems)
    assert found.seconds == pytest.approx(found.shared_seconds + sum(s.seconds for s in found.systems), abs=1)
    # Rows and a reward model for each seed, before the first system.
    assert found.shared_seconds == pytest.approx(2 * plan_comparison(settings, names, [0]).shared_seconds, rel=0.5)
    seconds = {s.name: s.seconds for s in found.systems}
    assert seconds["prompt_only"] < seconds["rlphf"] and seconds["prompt_only"] < seconds["best_of_n"]
    assert found.sentence.startswith("0 of 10 rows (5 systems, 2 seeds) are here; the rest takes about ")
    # Two of three rates are tried for nothing, by what trains, with the first seed alone.
    searching = plan_comparison(settings, names, [0, 1], [0.5, 1, 2])
    trained = [s.seconds for s in searching.systems if s.seed == 0 and s.name not in ("prompt_only", "best_of_n")]
    assert searching.search_seconds == pytest.approx(2 * sum(trained), abs=1)
    whole = searching.search_seconds + searching.shared_seconds + sum(s.seconds for s in searching.systems)
    assert searching.seconds == pytest.approx(whole, abs=1)
    assert not (tmp_path / "work" / "mlflow").exists()


def test_the_size_of_a_model_is_that_of_its_weights(tiny_chat: Path, tmp_path: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_chat)
    found = size_of(str(tiny_chat), tmp_path)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert (found.layers, found.hidden, found.keys) == (2, 32, 16)


def test_a_model_that_is_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"can't be fetched"):
        size_of("nobody/nothing", tmp_path)
