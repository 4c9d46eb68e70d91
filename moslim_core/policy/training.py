"""The policy stage's work, the same for every optimiser: conditioned prompts, one shared reward, training, the saved policy.

The reference is the policy at step 0: the base, after a warm start if there is one, with its adapter off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.trainer import TRAINING_ARGS_NAME

from moslim_core import models
from moslim_core.adapters import name_base
from moslim_core.checkpoints import last_complete
from moslim_core.data.rows import read_json_lines
from moslim_core.distributed import gather, is_first, refuse_sharded, sharded, take_own_device, wait
from moslim_core.model_identity import ModelId, content_digest, identify
from moslim_core.policy import grpo, ppo, rloo
from moslim_core.policy.artifact import BASE, MERGED, PolicyCard
from moslim_core.policy.callbacks import Report, TimeLimit
from moslim_core.policy.card import model_card
from moslim_core.policy.conditioning import held_out_combinations, load_targets, training_examples
from moslim_core.policy.generation import Sampling, generate
from moslim_core.policy.reward_function import PolicyReward
from moslim_core.policy.setup import Setup
from moslim_core.policy.shared_base import POLICY, attach, base_of, load_heads
from moslim_core.policy.warm_start import conditioned_sft
from moslim_core.preferences import Message, PreferenceSchema
from moslim_core.progress import Progress
from moslim_core.reward.mapping import RewardMapping
from moslim_core.reward.scorer import RewardScorer
from moslim_core.saving import MarkComplete
from moslim_core.settings import PolicySettings, Settings
from moslim_core.templates import Reader

REFERENCE_ROLLOUTS = 128
WARM_START = "warm_start"


def _online_dpo(setup: Setup) -> Any:
    # Imported when chosen: a version of trl that lacks what it needs must not stop the others.
    from moslim_core.policy import online_dpo

    return online_dpo.trainer(setup)


OPTIMISERS: dict[str, Callable[[Setup], Any]] = {
    "rloo": rloo.trainer,
    "grpo": grpo.trainer,
    "online_dpo": _online_dpo,
    "ppo": ppo.trainer,
}


# Prompts, preferences, policy settings, seed -> rows for the optimiser.
Examples = Callable[[Sequence[Sequence[Message]], PreferenceSchema, PolicySettings, int], list[dict[str, Any]]]


def train(
    settings: Settings,
    data: Path,
    reward_model: Path,
    cache: Path,
    checkpoints: Path,
    output: Path,
    progress: Progress,
    examples_of: Examples = training_examples,
) -> None:
    """Train on the prompts of a folder of the label stage with the reward model of another; save the policy in `output`.

    Resumes from the last checkpoint in `checkpoints`, where adapter, optimiser, RNG and mapping statistics are. A warm start's new
    base is saved with the policy. `examples_of` says what prompts ask for; compared systems ask in their own ways. Raises UserError
    where sharded weights can't be trained so.
    """
    policy, schema = settings.policy, settings.preferences
    base, start = settings.model.base, identify(settings.model.base, cache).id
    shared = policy.warm_start == "none" and base_of(reward_model) == start.digest
    if sharded():
        refuse_sharded(policy, shared)
    take_own_device()
    if policy.warm_start == "conditioned_sft":
        output.mkdir(parents=True, exist_ok=True)
        conditioned_sft(settings, data / "train.jsonl", cache, checkpoints / WARM_START, output / BASE, progress)
        base = str(output / BASE)
        start = ModelId(name=BASE, digest=content_digest(output / BASE, cache))
    set_seed(settings.seed)
    model, tokenizer = models.load_chat_model(base, cache, settings.model.dtype, settings.model.device)
    if shared:
        scorer, backbone = load_heads(reward_model, str(model.device))
    else:
        scorer = RewardScorer.load(reward_model, str(model.device))
    mapping = RewardMapping(schema, settings.mapping, gather)
    ends = models.end_tokens(model, tokenizer)
    reward = PolicyReward(scorer, mapping, policy.truncation_penalty, ends, Reader(tokenizer, ends))
    examples = examples_of([v["prompt"] for _, v in read_json_lines(data / "prompts.train.jsonl")], schema, policy, settings.seed)
    last = last_complete(checkpoints)
    clock = TimeLimit(policy.max_minutes, policy.epochs, last[1]["seconds"] if last else 0.0)
    setup = Setup(policy, model, tokenizer, reward, examples, checkpoints, settings.seed, callbacks=[clock])
    setup.callbacks.append(Report(progress, reward, setup.rollouts))
    setup.callbacks.append(MarkComplete(lambda: {"mapping": mapping.state(), "seconds": clock.seconds()}))
    trainer: Any = OPTIMISERS[policy.optimiser](setup)
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    if shared:
        attach(backbone, adapted, reward_model)
    if last is not None:
        mapping.load_state(last[1]["mapping"])
    elif settings.mapping.standardisation == "reference":
        _fit_reference(mapping, scorer, model, tokenizer, examples, settings)
    trainer.train(resume_from_checkpoint=str(last[0]) if last else None)
    if sharded():
        _save_sharded(trainer, output)
    if not is_first():
        wait()
        return
    output.mkdir(parents=True, exist_ok=True)
    if not sharded():
        adapted.save_pretrained(output, selected_adapters=[POLICY])
    name_base(output, start.name)
    tokenizer.save_pretrained(output)
    card = PolicyCard(
        base=start,
        preferences=schema,
        placement=policy.placement,
        optimiser=policy.optimiser,
        steps=trainer.state.global_step // policy.epochs,
        max_new_tokens=policy.max_new_tokens,
        mapping=settings.mapping,
        mapping_state=mapping.state(),
        held_out=[dict(pair) for pair in held_out_combinations(schema, policy, settings.seed)],
    )
    card.save(output)
    (output / "README.md").write_text(model_card(card, trainer.state.log_history), encoding="utf-8")
    if policy.save_merged:
        adapted.merge_and_unload(adapter_names=[POLICY]).save_pretrained(output / MERGED)
        tokenizer.save_pretrained(output / MERGED)
    wait()


def _save_sharded(trainer: Any, output: Path) -> None:
    """Save the adapter of which each process holds a part; all of them have to call this."""
    if trainer.is_fsdp_enabled:
        # Otherwise the trainer leaves parts unsaved without a word.
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(output))
    # The trainer's own settings, pickled: no part of a policy.
    (output / TRAINING_ARGS_NAME).unlink(missing_ok=True)


def _fit_reference(
    mapping: RewardMapping, scorer: RewardScorer, model: Any, tokenizer: Any, examples: list[dict[str, Any]], settings: Settings
) -> None:
    chosen = [examples[i % len(examples)] for i in range(REFERENCE_ROLLOUTS)]
    sampling = Sampling(settings.policy.max_new_tokens, settings.policy.temperature)
    answers = generate(model, tokenizer, [e["prompt"] for e in chosen], sampling, settings.seed)
    probabilities = scorer([e["question"] for e in chosen], [a.text for a in answers])
    mapping.fit_reference(probabilities, [load_targets(e["targets"], scorer.schema) for e in chosen])
