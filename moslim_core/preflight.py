"""Whether a run's models can do what the run asks of them, said in seconds and before the first stage. (ours)

Configurations, tokenizers, templates, and the names and shapes of all tensors are read; weights are not.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from moslim_core import models, registry
from moslim_core.data.catalogue import HubSet
from moslim_core.data.files import prompt_files
from moslim_core.data.sources import open_sources
from moslim_core.errors import UserError
from moslim_core.evaluation.benchmarks.sources import require
from moslim_core.evaluation.settings import EvaluationSettings
from moslim_core.models import DeviceName
from moslim_core.models.loading import load_weights, require_vocabulary
from moslim_core.policy.artifact import PolicyCard
from moslim_core.preferences import require_placement
from moslim_core.reward.model import backbone_tokenizer, require_layers
from moslim_core.reward.settings import RewardSettings
from moslim_core.reward.topic import ENCODER
from moslim_core.settings import Settings
from moslim_core.training.adapters import adapted_maps

STAGES = ("label", "train_reward", "train_policy", "evaluate")
# What training hands to a model beside the tokens.
NEEDED_ARGUMENTS = ("attention_mask", "position_ids", "logits_to_keep")


def check_models(settings: Settings, cache: Path, stages: Collection[str] = STAGES, policy: Path | None = None) -> None:
    """Raises UserError at the first model that these stages read and that is damaged, not whole, or unfit.

    `policy`: the folder of one that is given, in place of one to train. Every run calls it before its first stage.
    """
    for _, check in checks(settings, cache, stages, policy):
        check()


def checks(
    settings: Settings, cache: Path, stages: Collection[str] = STAGES, policy: Path | None = None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(model as people read it, its check) of every model that the stages read; each check raises UserError."""
    if "label" in stages:
        yield f"data.source {','.join(settings.data.source)}", partial(check_data, settings)
    if "train_policy" in stages:
        from moslim_core.policy.optimisers import require_fit

        yield f"policy.optimiser {settings.policy.optimiser}", partial(require_fit, settings.policy)
    base = check_base if {"train_reward", "train_policy"} & set(stages) else check_template
    yield f"model.base {settings.model.base}", partial(base, settings, cache)
    backbones = {"reward.backbone": settings.reward.backbone} if "train_reward" in stages else {}
    if "evaluate" in stages and "reward_model" in settings.evaluation.judges:
        backbones["evaluation.judge_backbone"] = settings.evaluation.judge_backbone or settings.reward.backbone
    if ("train_policy" in stages and settings.policy.off_topic_penalty) or ("evaluate" in stages and settings.evaluation.topic):
        backbones["the topic's encoder"] = ENCODER
    # The same backbone for several is checked once.
    for backbone, setting in {backbone: setting for setting, backbone in reversed(backbones.items())}.items():
        yield f"{setting} {backbone}", partial(check_backbone, backbone, settings.reward, settings.model.device, cache)
    if "evaluate" in stages:
        yield f"evaluation.suite {','.join(settings.evaluation.suite)}", partial(check_suite, settings.evaluation)
    if policy is not None:
        yield f"evaluation.policy {policy}", partial(check_policy, policy, settings.model.device, cache)


def check_data(settings: Settings) -> None:
    """The files of rows and of prompts are there, and their columns fit the preferences; nothing is fetched from the hub."""
    data, schema = settings.data, settings.preferences
    if data.path is not None or not any(issubclass(registry.source[name], HubSet) for name in data.source):
        open_sources(data, schema)
    if settings.policy.prompts is not None:
        prompt_files(settings.policy.prompts)


def check_template(settings: Settings, cache: Path) -> None:
    """What labelling needs of the chat model: its configuration, its tokenizer, a template that takes the instruction."""
    models.load_config(settings.model.base, cache)
    require_placement(models.load_chat_tokenizer(settings.model.base, cache), settings.preferences, settings.policy.placement)


def check_base(settings: Settings, cache: Path) -> None:
    """The chat model: whole, its template takes the instruction, its context has room, an adapter finds maps to change."""
    name, policy = settings.model.base, settings.policy
    config = models.load_config(name, cache)
    require_quantisation(config, name, settings.model.device)
    source = models.resolve(name, cache)
    if _here(source):
        model, tokenizer = models.load_chat_model(name, cache, device=settings.model.device, weights=False)
        adapted_maps(model, policy.lora_layers)
        _require_forward(model, name)
    else:
        tokenizer = models.load_chat_tokenizer(name, cache)
    require_placement(tokenizer, settings.preferences, policy.placement)
    room = models.context(config) - policy.max_new_tokens
    if room < 1:
        raise UserError(
            f"policy.max_new_tokens={policy.max_new_tokens}, but {name} reads {models.context(config)} tokens at once, prompt and answer.\n"
            "Lower policy.max_new_tokens."
        )


def check_backbone(name: str, reward: RewardSettings, device: DeviceName, cache: Path) -> None:
    """A reward model's backbone: whole, with layers enough, and a tokenizer of its own."""
    from transformers import AutoModel

    config = models.load_config(name, cache)
    require_quantisation(config, name, device)
    source = models.resolve(name, cache)
    require_layers(source, config, reward.layers)
    tokenizer = backbone_tokenizer(source)
    if _here(source):
        backbone = load_weights(AutoModel, source, source, backbone=True, device_map="meta")
        require_vocabulary(tokenizer, backbone, source)
        if reward.tuning == "lora":
            adapted_maps(backbone, None)


def check_suite(evaluation: EvaluationSettings) -> None:
    """The benchmarks' files are in the folder that is given for them, and something can be judged."""
    folder, endpoint = evaluation.data_dir, evaluation.endpoint.model
    if folder is not None and not folder.is_dir():
        raise UserError(f"evaluation.data_dir={folder}: there is no such folder.\nGive that with the benchmarks' files, or leave it out.")
    benchmarks = [registry.benchmark[name] for name in evaluation.suite if name not in registry.benchmark.also]
    for file in [file for of in benchmarks for file in (*of.files, *(of.judged_files if endpoint else ()))]:
        if folder is not None:
            require(folder, file)
    # These benchmarks need a language model as judge.
    if len(benchmarks) == len(evaluation.suite) and not endpoint and all(of.judged_files and not of.files for of in benchmarks):
        raise UserError(
            f"evaluation.suite={','.join(evaluation.suite)} needs a language model as judge, and none is given.\n"
            "Give evaluation.endpoint.model and evaluation.endpoint.base_url, or add to the suite what rules can judge."
        )


def check_policy(folder: Path, device: DeviceName, cache: Path) -> None:
    """A policy that is given: its card can be read, and the model that it is an adapter of is whole."""
    start = PolicyCard.load(folder).start(folder, cache)
    config = models.load_config(start, cache)
    require_quantisation(config, start, device)
    if _here(models.resolve(start, cache)):
        models.load_chat_model(start, cache, device=device, weights=False)


def require_quantisation(config: Any, name: str, device: DeviceName) -> None:
    """Raises UserError where the weights are quantised in a way that needs a package or a device which is not here."""
    wanted = getattr(config, "quantization_config", None)
    if wanted is None:
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    try:
        AutoHfQuantizer.from_config(wanted, pre_quantized=True).validate_environment(device_map={"": models.pick_device(device)})
    except UserError:
        raise
    except Exception as error:  # whatever the package at hand says
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"model {name!r} is quantised, and can't be read here: {said}\nInstall what it needs, or give the model that is not quantised."
        ) from error


def _require_forward(model: Any, name: str) -> None:
    lacking = [argument for argument in NEEDED_ARGUMENTS if argument not in inspect.signature(model.forward).parameters]
    if lacking:
        raise UserError(
            f"model {name!r} ({type(model).__name__}) can't be trained here: it takes no {', '.join(lacking)}.\n"
            "Give a model of another family, such as Llama, Qwen, Gemma or Phi."
        )


def _here(source: str) -> bool:
    """Whether a model's weights are on this machine, so that its tensors can be checked without downloading them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if os.path.isdir(source):
        return True
    try:
        return any(Path(snapshot_download(source, local_files_only=True)).glob("*.safetensors"))
    except LocalEntryNotFoundError:
        return False
