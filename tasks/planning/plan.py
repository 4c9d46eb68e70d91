"""What a run would do: its stages, which are reused, and what the others cost on this machine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel

from moslim_core import cost, models
from moslim_core.data.splits import FEWEST
from moslim_core.errors import UserError
from moslim_core.settings import Settings
from moslim_core.settings_section import changed
from tasks.execution.stage import Job, compute, fingerprint
from tasks.ledger.of_work_dir import ledger_of
from tasks.ledger.references import ArtifactRef
from tasks.stages import evaluate, label, report, train_policy, train_reward
from tasks.surroundings import environment, work_dirs

# A checkpoint holds the adapter and AdamW's two moments of it; two are kept, and the policy is a third adapter.
ADAPTER_COPIES = 2 * 3 + 1
# Larger sets are not read to their end for an estimate.
MOST_ROWS = 100_000
# The ledger, Prefect's database and the report.
RECORDS_GB = 0.05
HOW = (
    "An estimate: operations of the models' passes over the tokens (2 a parameter) at the speed that a matrix product reached here just "
    "now, and measured times for loading and drawing (moslim_core/cost.py). A third more or less is usual."
)
HOW_ELSEWHERE = (
    f"An estimate for a GPU that is not here: operations of the models' passes over the tokens at {cost.REACHED:.0%} of the speed that its "
    "maker states (moslim_core/cost.py). Nothing of it was measured: the same command on the machine itself knows more."
)


class PlannedStage(BaseModel):
    """`reused`: a finished run has its output already. `note`: what is not counted."""

    name: str
    reused: bool
    seconds: float
    memory_gb: float
    tokens_drawn: int
    tokens_read: int
    note: str = ""


class Plan(BaseModel):
    """Of a run. Memory is the most that all processes hold at once, on a GPU that GPU's; `device` may be one that is not here."""

    rows: int
    stages: list[PlannedStage]
    seconds: float
    memory_gb: float
    memory_free_gb: float
    disk_gb: float
    disk_free_gb: float
    device: str
    dtype: str
    how: str = HOW


def plan(settings: Settings, card: str | None = None) -> Plan:
    """On this machine, or on a GPU of cost.CARDS that need not be here, where nothing of this machine's is reused.

    Raises UserError where the rows or the models can't be read. Nothing of a model but its configuration is fetched.
    """
    place = work_dirs.absolute(settings.work_dir)
    settings = changed(settings, work_dir=place)
    if card is None:
        import torch

        device, dtype = compute(settings)
        reused = dict(reused_stages(settings))
        speed, free, how = cost.measured_speed(device, getattr(torch, dtype)), memory_free_gb(device), HOW
    else:
        stated = _card(card)
        device, dtype, reused = card, "bfloat16", {}
        speed, free, how = cost.stated_speed(stated), stated.memory_gb, HOW_ELSEWHERE
    counts = counts_of(settings, reused.get("label"))
    stages = [_planned(name, of(), name in reused) for name, of in stage_costs(settings, counts, speed)]
    benchmarks = [name for name in settings.evaluation.suite if name != "controllability"]
    for stage in stages:
        if stage.name == "evaluate" and benchmarks:
            stage.note = f"without {', '.join(benchmarks)}"
        if stage.name == "label" and set(settings.annotation.fill) - {"rules"}:
            stage.note = "without the time of those who fill in labels"
    work = [stage for stage in stages if not stage.reused]
    return Plan(
        rows=sum(counts.rows.values()),
        stages=stages,
        seconds=sum(stage.seconds for stage in work),
        # The servers are in the machine's own memory.
        memory_gb=(cost.SERVERS_GB if speed.device == "cpu" else 0.0) + max((stage.memory_gb for stage in work), default=0.0),
        memory_free_gb=free,
        disk_gb=_disk(settings, {stage.name for stage in work}),
        disk_free_gb=shutil.disk_usage(work_dirs.nearest(place)).free / 1e9,
        device=device,
        dtype=dtype,
        how=how,
    )


def memory_free_gb(device: str) -> float:
    """Of the GPU that a run would use, else of the machine."""
    if device != "cuda":
        return psutil.virtual_memory().available / 1e9
    import torch

    return torch.cuda.mem_get_info()[0] / 1e9


def _card(name: str) -> cost.Card:
    if name not in cost.CARDS:
        raise UserError(
            f"--on {name}: no such GPU is known here.\nGive one of {', '.join(cost.CARDS)}, or leave --on out for this machine."
        )
    return cost.CARDS[name]


def work(job: Job) -> dict[str, Any]:
    """The question what the job's run would do."""
    return plan(job.settings).model_dump(mode="json")


def _planned(name: str, of: cost.Cost, reused: bool) -> PlannedStage:
    if reused:
        of = cost.Cost(0.0, 0.0)
    return PlannedStage(
        name=name,
        reused=reused,
        seconds=round(of.seconds, 1),
        memory_gb=round(of.memory_gb, 2),
        tokens_drawn=of.drawn,
        tokens_read=of.read,
    )


def stage_costs(settings: Settings, counts: cost.Counts, speed: cost.Speed) -> Iterator[tuple[str, Callable[[], cost.Cost]]]:
    """(stage, what its cost is computed by) in the order of a run."""
    cache = environment.model_cache(settings.work_dir)
    base, backbone = size_of(settings.model.base, cache), size_of(settings.reward.backbone, cache)
    schema = settings.preferences
    yield "label", lambda: cost.label_cost(counts)
    yield "train_reward", lambda: cost.reward_cost(settings.reward, backbone, counts, "train", speed)
    yield "train_policy", lambda: cost.policy_cost(settings.policy, base, backbone, counts, speed)
    if "reward_model" in settings.evaluation.judges:
        judge = train_reward.judge_settings(settings)
        judged = size_of(judge.backbone, cache)
        yield train_reward.JUDGE, lambda: cost.reward_cost(judge, judged, counts, "judge", speed)
    yield "evaluate", lambda: cost.evaluation_cost(settings.evaluation, settings.policy, schema, base, counts, speed)
    yield "report", lambda: cost.report_cost(schema)


def size_of(name: str, cache: Path) -> cost.Size:
    """By its configuration alone: of a hub model that is not here no weights are fetched. Raises UserError."""
    import torch
    from transformers import AutoModel

    config = _config(name, cache)
    text = config.get_text_config()
    try:
        with torch.device("meta"):
            model: Any = AutoModel.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"model {name!r}: its configuration can't be read ({str(error).splitlines()[0][:200]}).\nGive another.") from error
    embeddings = model.get_input_embeddings().weight.numel()
    heads = getattr(text, "num_attention_heads", 1) or 1
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys = (getattr(text, "num_key_value_heads", None) or heads) * width
    whole = sum(p.numel() for p in model.parameters())
    return cost.Size(whole, embeddings, getattr(text, "num_hidden_layers", 1) or 1, text.hidden_size, keys)


def _config(name: str, cache: Path) -> Any:
    if name in models.PACKAGED or os.path.isdir(os.path.expanduser(name)) or models.is_fetched(name):
        return models.load_config(name, cache)
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig

    model, _, revision = name.partition("@")
    try:
        return AutoConfig.from_pretrained(Path(hf_hub_download(model, "config.json", revision=revision or None)).parent)
    except Exception as error:  # whatever the hub's client, and the HTTP library beneath it, raise
        raise UserError(
            f"model {name!r}: its configuration can't be fetched ({(str(error).splitlines() or [''])[0][:200]}).\n"
            "Give a local directory, or a hub id that this machine can reach."
        ) from error


def reused_stages(settings: Settings) -> Iterator[tuple[str, ArtifactRef]]:
    """The stages whose output is there, in order; where one is not, those that need it are not either."""
    names = [settings.model.base, settings.reward.backbone]
    if not (settings.work_dir / "mlflow").is_dir() or settings.placement == "pools":
        return
    if not all(name in models.PACKAGED or os.path.isdir(name) or models.is_fetched(name) for name in names):
        return
    ledger = ledger_of(settings.work_dir)
    reused: dict[str, ArtifactRef] = {}
    judged = "reward_model" in settings.evaluation.judges
    wanted: list[tuple[Any, dict[str, str]]] = [
        (label.STAGE, {}),
        (train_reward.REWARD_STAGE, {"rows": "label"}),
        (train_policy.STAGE, {"rows": "label", "reward_model": "train_reward"}),
        *([(train_reward.JUDGE_STAGE, {"rows": "label"})] if judged else []),
        (evaluate.STAGE, {"rows": "label", "policy": "train_policy", **({"judge": train_reward.JUDGE} if judged else {})}),
        (
            report.STAGE,
            {
                "rows": "label",
                "reward_model": "train_reward",
                **({"judge": train_reward.JUDGE} if judged else {}),
                "policy": "train_policy",
                "evaluation": "evaluate",
            },
        ),
    ]
    for stage, inputs in wanted:
        if all(of in reused for of in inputs.values()):
            ref = ledger.finished(stage.name, fingerprint(stage, settings, {name: reused[of] for name, of in inputs.items()}))
            if ref is not None:
                reused[stage.name] = ref
                yield stage.name, ref


def counts_of(settings: Settings, rows: ArtifactRef | None) -> cost.Counts:
    """From the data card of rows that are labelled already, else from a quick look: splits by their shares, nothing grouped or dropped."""
    if rows is not None:
        folder = ledger_of(settings.work_dir).download(rows.uri)
        card = json.loads((folder / "data_card.json").read_text(encoding="utf-8"))
        words = [card[f"{of}_words"]["50"] for of in ("prompt", "answer")]
        return cost.Counts(card["rows"], card["prompts"]["training"], card["prompts"]["evaluation"], *words)
    from moslim_core.data import sources
    from moslim_core.data.bad_rows import skip
    from moslim_core.data.rows import plain_text, prompt_key

    data, prompts, read = settings.data, set[str](), 0
    words = [0.0, 0.0]
    opened = sources.open_sources(data, settings.preferences)
    for rated in islice((rated for source in opened for rated in source.rows(skip)), min(data.limit or MOST_ROWS, MOST_ROWS)):
        read += 1
        prompts.add(prompt_key(rated.row.prompt))
        for place, text in enumerate((plain_text(rated.row.prompt), rated.row.response)):
            words[place] += len(text.split())
    count = len(prompts)
    if settings.policy.prompts is not None:
        count = sum(1 for _ in islice(sources.prompts(settings.policy.prompts, skip), MOST_ROWS))
    training = 1 - data.test_fraction - data.validation_fraction
    judged = 0.5 if "reward_model" in settings.evaluation.judges else 0.0
    shares = {
        "train": training * (1 - judged),
        "judge": training * judged,
        "validation": data.validation_fraction,
        "test": data.test_fraction,
    }
    held = max(1, min(settings.evaluation.limit, round(count * data.test_fraction)), min(FEWEST, count // 5))
    return cost.Counts(
        {split: round(read * share) for split, share in shares.items()},
        round(count * training * (1 - judged)),
        min(held, settings.evaluation.limit),
        words[0] / max(1, read),
        words[1] / max(1, read),
    )


def _disk(settings: Settings, work: set[str]) -> float:
    """GB that the run would write: models fetched or unpacked, reward models, adapters with checkpoints, records."""
    cache = environment.model_cache(settings.work_dir)
    total = RECORDS_GB
    for name in {settings.model.base, settings.reward.backbone}:
        size = size_of(name, cache).parameters * 2 / 1e9
        unpacked = name in models.PACKAGED and not any(cache.glob(f"{name}-*/config.json"))
        fetched = name not in models.PACKAGED and not os.path.isdir(name) and not models.is_fetched(name)
        total += size if unpacked or fetched else 0.0
    backbone, base = size_of(settings.reward.backbone, cache), size_of(settings.model.base, cache)
    rewards = len(work & {"train_reward", train_reward.JUDGE})
    # Weights in float32; while it trains also a checkpoint with AdamW's moments.
    total += rewards * backbone.parameters * 4 * (4 if settings.reward.tuning == "full" else 0.1) / 1e9
    if "train_policy" in work:
        total += adapter_gb(settings, base)
    return total


def adapter_gb(settings: Settings, base: cost.Size) -> float:
    """GB of a policy's adapter and of its checkpoints."""
    # Of each layer's maps, which have about 12 h^2 weights, the adapter has 2 r columns a map of h.
    adapter = base.layers * settings.policy.lora_rank * base.hidden * 2 * 9
    return ADAPTER_COPIES * adapter * 4 / 1e9
