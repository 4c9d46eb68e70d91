"""The policy's adapter as it learns: passes over rows, one update from all parts of a step and all processes, and its state on disk. (ours)

The loss is a sum over tables, each a function of its rows' log-probabilities. A pass holds whole tables and goes back through the model at
once. A table too large for a pass has its gradient by the log-probabilities taken first, and each part of its rows carries back its share.
So neither how rows are cut into passes nor how prompts are dealt to processes changes an update, whatever the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from moslim_core.errors import UserError
from moslim_core.policy.artifact import ADAPTER
from moslim_core.policy.drawing_model import DrawingModel
from moslim_core.policy.log_probs import Read, completion_log_probs
from moslim_core.policy.output_layer import plain_output_layer
from moslim_core.policy.rollouts import RolloutBatch, Table
from moslim_core.policy.settings import PolicySettings
from moslim_core.training.adapters import adapter_config
from moslim_core.training.distributed import mixed_precision, parts, processes, sharded, total

STATE_FILE = "learner.safetensors"
MOST_NORM = 1.0
# Without a warm-up the first steps, whose size Adam can't judge yet, lead away from the base for good.
WARM_UP = 3
# Muon's: an update is the mean of about five. A run on few cores has twenty.
MOMENTUM = 0.8

# An optimiser's, of a batch, log-probabilities (r, c) and values (r, c).
Loss = Callable[[RolloutBatch, Tensor, Tensor | None], Tensor]


def share_of_rate(done: int, policy: PolicySettings) -> float:
    """Of the learning rate, in the step after `done` ones: a warm-up, and a straight line to what is left at the end."""
    warm_up = min(1.0, (done + 1) / (min(WARM_UP, policy.steps // 5) + 1))
    return warm_up * (1 - (1 - policy.final_rate) * done / max(1, policy.steps - 1))


class Passed(NamedTuple):
    """Log-probabilities and the critic's values, each (r, c), of a batch's rows; `graph`: gradients can go back through them."""

    log_probs: Tensor
    values: Tensor | None
    entropy: float
    graph: bool

    @property
    def tensors(self) -> list[Tensor]:
        """What a loss is a function of: log-probabilities and, with a critic, values, each (r, c)."""
        return [t for t in (self.log_probs, self.values) if t is not None]


class _WentBack(NamedTuple):
    log_probs: Tensor
    loss: float
    entropy: float


class Learner:
    """An adapter on a base, learning in float32, with the critic that its optimiser may need. Raises UserError where none fits the base."""

    def __init__(self, base: Any, policy: PolicySettings, critic: Callable[[int], nn.Module] | None = None, apart: bool = False) -> None:
        """`critic`: what makes one of the policy's hidden size. `apart`: what learns is no more than kept beside what is in use."""
        self.policy, self.sharded, self.device = policy, sharded(), base.device
        config = adapter_config(base, policy.lora_rank, policy.lora_layers, "CAUSAL_LM")
        self.output = None if self.sharded else plain_output_layer(base)
        self.drawing = None if self.sharded or mixed_precision() != "no" else DrawingModel(base, sorted(config.target_modules))
        # In a bfloat16 base's own dtype the adapter's products need no casts; what learns is a float32 copy.
        coarse = base.dtype == torch.bfloat16 and not self.sharded
        kept = coarse or apart
        self.accelerator = Accelerator(cpu=base.device.type == "cpu" and not self.sharded)
        self.model: Any = get_peft_model(base, config, autocast_adapter_dtype=not coarse)
        if self.drawing is not None and not self.drawing.fits(self.model):
            self.drawing = None
        if self.sharded:
            # accelerate shares out no model without an optimiser. That of this class is made for the parts that come of it.
            unused = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=0.0)
            self.model, _ = self.accelerator.prepare(self.model, unused)
            register_fsdp_forward_method(self.model, "generate")
        if policy.gradient_checkpointing:
            passing = self.model if self.drawing is None else self.drawing.model
            passing.gradient_checkpointing_enable({"use_reentrant": False})
            _without_dropout(passing)
        self.critic = critic(base.config.get_text_config().hidden_size).to(base.device) if critic is not None else None
        self.used = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.learning: dict[str, nn.Parameter] = {n: nn.Parameter(p.detach().float().clone()) if kept else p for n, p in self.used.items()}
        own = {f"critic.{name}": p for name, p in self.critic.named_parameters()} if self.critic is not None else {}
        self.learning |= own
        # Of the adapter, and of the critic where there is one.
        self.optimisers = [self._optimiser([p for n, p in self.learning.items() if n not in own], policy.learning_rate, policy.update)]
        self.optimisers += [self._optimiser(list(own.values()), policy.ppo.critic_learning_rate, "adamw")] if own else []
        # Whether the policy has changed since the model to draw from was made.
        self.stale = True
        self.rates = [optimiser.param_groups[0]["lr"] for optimiser in self.optimisers]
        self.updates = torch.tensor(0)
        # The mean of the adapter over so many steps, if any were counted in.
        self.mean: dict[str, Tensor] = {}
        self.counted = torch.tensor(0)

    def _optimiser(self, parameters: list[nn.Parameter], rate: float, update: str) -> torch.optim.Optimizer:
        if update == "muon":
            return torch.optim.Muon(parameters, lr=rate, weight_decay=0.0, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
        # One kernel for all of it, but for parts of tensors, which it does not know.
        return torch.optim.AdamW(parameters, rate, weight_decay=0.0, fused=not self.sharded, foreach=False if self.sharded else None)

    def to_draw(self) -> Any:
        """The model that answers are drawn from, as the policy is now."""
        if self.drawing is None:
            return self.model
        if self.stale:
            self.drawing.follow(self.model, ADAPTER)
            self.stale = False
        return self.drawing.model

    def _reading(self) -> AbstractContextManager[Any]:
        """The model that answers are read by."""
        model = self.to_draw()
        return nullcontext(model) if self.drawing is None else self.drawing.reading()

    @property
    def plain(self) -> Any:
        """The PeftModel itself."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def whole(self) -> bool:
        """Whether the adapter alone is on each process's own model, so that passes are free to be as they like."""
        return not self.sharded and not self.policy.gradient_checkpointing

    def read(self, batch: RolloutBatch) -> Passed:
        """The policy's pass over the rows, with its graph where one part holds all. Raises RuntimeError at a row without a probability."""
        cut = self._parts(batch)
        keeps = len(cut) == 1
        with torch.set_grad_enabled(keeps):
            passes = [self._pass(batch, rows) for rows in cut]
        return _joined(passes, cut, keeps)

    def reference(self, batch: RolloutBatch, everywhere: bool) -> Tensor:
        """Log-probabilities (r, c) under the starting policy; without `everywhere` of the rows where an answer is at home, 0 elsewhere."""
        wanted = None if everywhere else batch.pairs.home.unique().to(batch.ids.device)
        log_probs = torch.zeros_like(batch.mask, dtype=torch.float32)
        with torch.no_grad(), self.plain.disable_adapter():
            for rows in self._parts(batch, wanted):
                log_probs[rows] = self._pass(batch, rows, self.model).log_probs
        return log_probs

    def update(self, batch: RolloutBatch, loss: Loss, share: float, passed: Passed | None = None) -> tuple[Tensor, dict[str, float]]:
        """One update by `loss`, each process's part of the step's; `share` of the learning rate.

        `passed`: the policy's pass over the batch, if it has not changed since. Returns the log-probabilities (r, c) before the update;
        loss, gradient norm and entropy.
        """
        again = passed if passed is not None and passed.graph else None
        backward_passes = [self._go_back(part, loss, again) for part in ([batch] if again else self._whole_tables(batch))]
        local, spread = (sum(values) for values in zip(*((f.loss, f.entropy * len(f.log_probs)) for f in backward_passes), strict=True))
        norm = self._step(share)
        said = total(torch.tensor([local, spread / len(batch.ids), 1.0], dtype=torch.float64)).tolist()
        figures = {"loss": said[0], "grad_norm": norm, "entropy": said[1] / said[2], "learning_rate": self.rates[0] * share}
        return torch.cat([f.log_probs for f in backward_passes]), figures

    def _whole_tables(self, batch: RolloutBatch) -> list[RolloutBatch]:
        """The batch in parts of at most `policy.micro_batch` rows, or of a single table that has more."""
        if self.sharded:
            # All processes have to make as many passes.
            return [batch]
        parts: list[list[Table]] = []
        room = 0
        for table in batch.pairs.tables:
            size = table.answers * table.requests
            if size > room:
                parts.append([])
                room = self.policy.micro_batch
            parts[-1].append(table)
            room -= size
        return [batch.of(tables) for tables in parts]

    def _go_back(self, batch: RolloutBatch, loss: Loss, passed: Passed | None) -> _WentBack:
        """Adds the gradient of the loss of whole tables."""
        passed = passed or self.read(batch)
        leaves = [t.detach().requires_grad_() for t in passed.tensors]
        local = loss(batch, leaves[0], leaves[1] if len(leaves) > 1 else None)
        local_gradients = torch.autograd.grad(local, leaves, allow_unused=True)
        # Sharded weights have the mean of all processes' gradients taken.
        times = processes() if self.sharded else 1
        gradients = [torch.zeros_like(t) if g is None else g * times for t, g in zip(leaves, local_gradients, strict=True)]
        if passed.graph:
            torch.autograd.backward(passed.tensors, gradients)
        for rows in [] if passed.graph else self._parts(batch):
            again = self._pass(batch, rows)
            torch.autograd.backward(again.tensors, [g[rows] for g in gradients])
            self._collect()
        self._collect()
        return _WentBack(leaves[0].detach(), float(local.detach()), passed.entropy)

    def count_in(self) -> None:
        """Count the adapter as it is in the mean that `adapter` gives (Izmailov et al. 2018, arXiv 1803.05407)."""
        self.counted += 1
        for name in self.used:
            now = self.learning[name].detach()
            self.mean[name] = self.mean.get(name, now).lerp(now, 1 / int(self.counted))

    def adapter(self, mean: bool = True) -> dict[str, Tensor]:
        """All of the adapter in float32 by its parameters' names, with `mean` that of steps that count in it; every process has to ask."""
        return {name: _full(self.mean.get(name, self.learning[name]) if mean else self.learning[name]) for name in self.used}

    def save(self, folder: Path, first: bool) -> None:
        """Adapter, critic and optimisers, whole, in one file that the first process writes; every process has to call this."""
        tensors = {"counted": self.counted, "updates": self.updates}
        for name, parameter in self.learning.items():
            tensors[f"parameter/{name}"] = _full(parameter)
            if name in self.mean:
                tensors[f"mean/{name}"] = _full(self.mean[name])
            for optimiser in self.optimisers:
                tensors |= {f"{key}/{name}": _full(value) for key, value in optimiser.state.get(parameter, {}).items()}
        if first:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Raises UserError where an earlier version of this project wrote the checkpoint, or for another adapter."""
        if not (folder / STATE_FILE).is_file():
            raise UserError(f"{folder} was written by an earlier version, and can't be gone on from.\nRemove {folder.parent}.")
        tensors = load_file(folder / STATE_FILE)
        states: dict[nn.Parameter, dict[str, Tensor]] = {}
        for name, parameter in self.learning.items():
            saved = {key.partition("/")[0]: value for key, value in tensors.items() if key.partition("/")[2] == name}
            if saved.get("parameter", torch.empty(0)).shape != parameter.shape:
                raise UserError(f"{folder} is a checkpoint of another adapter: {name} is not as it was.\nRemove {folder.parent}.")
            parameter.data.copy_(_like(parameter, saved.pop("parameter")))
            if "mean" in saved:
                self.mean[name] = _like(parameter, saved.pop("mean"))
            states[parameter] = {key: value if key == "step" else _like(parameter, value) for key, value in saved.items()}
        self.counted, self.updates = tensors.get("counted", self.counted), tensors.get("updates", self.updates)
        for optimiser in self.optimisers:
            groups = optimiser.state_dict()["param_groups"]
            own = {index: states[parameter] for index, parameter in enumerate(optimiser.param_groups[0]["params"])}
            optimiser.load_state_dict({"state": own, "param_groups": groups})
        self._use()

    def _pass(self, batch: RolloutBatch, rows: Tensor, model: Any = None) -> Passed:
        """Of rows under the policy, or under another model."""
        reading = nullcontext(model) if model is not None else self._reading()
        prompts = [batch.prompts[row] for row in rows.tolist()]
        ids, mask = batch.ids[rows], batch.mask[rows]
        # accelerate keeps one precision for a process: without a launcher it may be one that another training has left.
        with self.accelerator.autocast() if mixed_precision() != "no" else nullcontext(), reading as model:
            # Activations are recomputed in training mode only.
            model.train(self.policy.gradient_checkpointing and torch.is_grad_enabled())
            read: Read = completion_log_probs(
                model, prompts, ids, mask, self.policy.temperature, self.critic is not None, share=self.whole, output=self.output
            )
        broken = (~read.log_probs.detach().isfinite()).any(dim=1).nonzero()
        if len(broken):
            raise RuntimeError(f"the policy gives no finite probability to an answer to the prompt of tokens {prompts[int(broken[0])]}")
        values = self.critic(read.states) * mask if self.critic is not None else None
        return Passed(read.log_probs, values, read.entropy, torch.is_grad_enabled())

    def _parts(self, batch: RolloutBatch, rows: Tensor | None = None) -> list[Tensor]:
        """Rows in parts of at most `policy.micro_batch`, as many as in every other process."""
        rows = torch.arange(len(batch.ids), device=batch.ids.device) if rows is None else rows
        if not self.whole:
            # Such passes pad all rows to the longest. Others share what neighbours' prompts have in common.
            rows = rows[batch.mask[rows].sum(dim=1).argsort(stable=True)]
        count = -(-len(rows) // self.policy.micro_batch)
        return list(rows.tensor_split(max(parts(count)) if self.sharded else count))

    def _collect(self) -> None:
        """Gradients of the parameters in use, added to those of what learns."""
        for name, parameter in self.used.items():
            learning = self.learning[name]
            if learning is not parameter and parameter.grad is not None:
                gradient = parameter.grad.float()
                learning.grad = gradient if learning.grad is None else learning.grad.add_(gradient)
                parameter.grad = None

    def _step(self, share: float) -> float:
        adapter, critic = [*(optimiser.param_groups[0]["params"] for optimiser in self.optimisers), []][:2]
        _sum_gradients(critic, mean=self.sharded)
        if not self.sharded:
            _sum_gradients(adapter)
        norm = nn.utils.clip_grad_norm_(adapter, MOST_NORM)
        if critic:
            nn.utils.clip_grad_norm_(critic, MOST_NORM)
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            optimiser.param_groups[0]["lr"] = rate * share
            optimiser.step()
            optimiser.zero_grad()
        self.updates += 1
        self._use()
        return float(_full(norm))

    def _use(self) -> None:
        """What learns is what is in use."""
        with torch.no_grad():
            for name, parameter in self.used.items():
                if self.learning[name] is not parameter:
                    parameter.copy_(self.learning[name])
        self.stale = True


def _without_dropout(model: nn.Module) -> None:
    """Recomputing works in training mode only, where a pass must give the numbers that it gives in any other."""
    for module in model.modules():
        for name in ("p", "attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def _joined(passed: list[Passed], cut: list[Tensor], graph: bool) -> Passed:
    order = torch.cat(cut).argsort()
    values = [p.values for p in passed if p.values is not None]
    shares = [len(rows) / len(order) for rows in cut]
    return Passed(
        torch.cat([p.log_probs for p in passed])[order],
        torch.cat(values)[order] if values else None,
        sum(p.entropy * share for p, share in zip(passed, shares, strict=True)),
        graph,
    )


def _sum_gradients(parameters: list[nn.Parameter], mean: bool = False) -> None:
    """Over all processes, each of which has whole ones of its own."""
    if processes() == 1 or not parameters:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    torch.distributed.all_reduce(flat)
    pieces = (flat / processes() if mean else flat).split([p.numel() for p in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


def _full(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process holds a part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole value, or this process's part of it, as of a parameter."""
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements) if isinstance(parameter, DTensor) else value
