"""One step's rows: prompts under targets -> answers drawn, or taken from the rated ones -> scored by all heads, once -> a RolloutBatch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.nn import functional as F

from moslim_core.policy import credit
from moslim_core.policy.conditioning import Example
from moslim_core.policy.engines import Engine
from moslim_core.policy.imitation import with_imitation
from moslim_core.policy.learner import Learner, Passed
from moslim_core.policy.optimisers import Optimiser
from moslim_core.policy.rated_answers import RatedAnswers, ends_with_punctuation
from moslim_core.policy.reader import Reader
from moslim_core.policy.relabelling import centred, weights
from moslim_core.policy.rewards import Rewards
from moslim_core.policy.rollouts import Pairs, Rollout, RolloutBatch, counts, padded
from moslim_core.policy.settings import PolicySettings
from moslim_core.preferences import clauses
from moslim_core.training.distributed import processes, total

# An answer that another sampler drew counts this much more than one of the policy's own at most (TRL's cap for vLLM).
MOST_IMPORTANCE = 3.0


def drift(batch: RolloutBatch, log_probs: torch.Tensor) -> dict[str, float]:
    """Of drawn answers under their own requests, as the step began: `kl`, mean log pi / pi_ref of their tokens, in nats; `own_weight`,
    how much they count (relabelling.py). `log_probs` (r, c)."""
    own = batch.pairs.own.to(batch.mask.device)
    own_tokens = batch.mask * own.unsqueeze(1)
    reference = log_probs if batch.reference is None else batch.reference
    sums = torch.stack([batch.weight[own].sum(), own.sum(), ((log_probs - reference) * own_tokens).sum(), own_tokens.sum()])
    weighed, answers, nats, tokens = total(sums.double()).tolist()
    if not answers:
        return {}
    return {"own_weight": weighed / answers} | ({} if batch.reference is None else {"kl": nats / tokens})


def learn(learner: Learner, optimiser: Optimiser, batch: RolloutBatch, passed: Passed | None, share: float) -> dict[str, float]:
    """All updates of a step at a share of the learning rate; figures. `passed`: the policy's pass over the batch, if there was one."""
    batch, figures = optimiser.prepared(batch)
    loss = with_imitation(optimiser.loss, learner.policy.imitation)
    for epoch in range(learner.policy.epochs):
        log_probs, updated = learner.update(batch, loss, share, passed if epoch == 0 else None)
        figures |= (drift(batch, log_probs) if epoch == 0 else {}) | updated
    return figures


class Steps:
    """Makes the rows of a step from the examples of whole families. `rated`: where a share of the answers comes from."""

    def __init__(self, policy: PolicySettings, engine: Engine, rewards: Rewards, read: Reader, rated: RatedAnswers | None) -> None:
        self.policy, self.engine, self.rewards, self.read, self.rated = policy, engine, rewards, read, rated

    def draw(self, examples: Sequence[Example], prompts: Sequence[list[int]], seed: int) -> tuple[list[Rollout], list[list[float]] | None]:
        """(answers in the order of their families, the engine's log-probabilities of those that were drawn).

        What is taken from the rated answers goes by seed and family alone, however many processes there are.
        """
        families = list(dict.fromkeys(e.family for e in examples))
        torch.manual_seed(random.Random(f"{seed}/{families}").getrandbits(63))
        members = {f: [n for n, e in enumerate(examples) if e.family == f] for f in families}
        requests, rated = [], []
        for family, own in members.items():
            rng = random.Random(f"{seed}/{family}")
            answers = len(own) * self.policy.group_size
            wanted = round(self.policy.rated_answers * answers)
            known = self.rated.of(examples[own[0]].plain, wanted, rng) if self.rated else []
            rated += [Rollout(ids, None, family) for ids in known]
            # What is not a multiple of the requests is shared out by chance. Where the data has too few answers, more are drawn.
            order = rng.sample(own, len(own)) if known else own
            missing = answers - len(known) if self.policy.rated_answers < 1 else 0
            requests += sorted(order[n % len(order)] for n in range(missing))
        # Engines of several processes draw together: one that lacks nothing draws an answer all the same, which is dropped.
        together = processes() > 1 and self.policy.rated_answers < 1
        asked = requests or [0] * together
        if not asked:
            return rated, None
        drawn = self.engine.draw([prompts[n] for n in asked])
        rollouts = [Rollout(ids, n, examples[n].family) for n, ids in zip(requests, drawn.answers if requests else [], strict=True)]
        return rollouts + rated, drawn.log_probs

    def judge(
        self, examples: Sequence[Example], rollouts: Sequence[Rollout], pairs: Pairs
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """(rewards (r,), or (r, c) with credit per token, standardised utilities (r, m), figures)."""
        questions = {e.family: e.question for e in examples}
        targets = [e.targets for e in examples]
        ids = [r.ids for r in rollouts]
        said = [self.read.said(answer) for answer in ids]
        instructions = clauses(self.rewards.scorer.schema)
        texts, cut = [s.text for s in said], [not s.whole for s in said]
        # Who is asked for few words soon gives a heading: the shortest answer there is.
        sentences = self.rated is not None and self.rated.sentences
        unfinished = [c or (sentences and not ends_with_punctuation(text)) for c, text in zip(cut, texts, strict=True)]
        repeated = [s.marked or bool(instructions.search(s.text)) for s in said]
        judged = self.rewards([questions[r.family] for r in rollouts], texts, unfinished, repeated, targets, pairs)
        own = [n for n, r in enumerate(rollouts) if r.request is not None]
        figures = dict(judged.figures)
        counted = [len(own), *(sum(column[n] for n in own) for column in (list(map(len, ids)), cut, repeated))]
        drawn, tokens, truncated, repeating = total(torch.tensor(counted, dtype=torch.float64)).tolist()
        if drawn:
            figures |= {"completion_tokens": tokens / drawn, "truncated": truncated / drawn, "repeats_instruction": repeating / drawn}
        return judged.rewards, judged.utilities, figures

    def batch(
        self,
        learner: Learner,
        examples: Sequence[Example],
        prompts: Sequence[list[int]],
        rollouts: Sequence[Rollout],
        drawn_with: Sequence[Sequence[float]] | None,
        pairs: Pairs,
        rewards: torch.Tensor,
        utilities: torch.Tensor,
        optimiser: Optimiser,
    ) -> tuple[RolloutBatch, Passed | None, dict[str, float]]:
        """(the rows with all that the optimiser asks for, the policy's pass over them if it looks back, figures)."""
        ids, mask = padded([rollouts[n].ids for n in pairs.rollouts.tolist()], learner.device)
        rows, tokens = counts(mask)
        nothing = torch.zeros(ids.shape, device=ids.device)
        batch = RolloutBatch(
            pairs, [prompts[n] for n in pairs.requests.tolist()], ids, mask, rewards.to(ids.device), utilities.to(ids.device),
            nothing, None, None, torch.ones(len(ids), device=ids.device), rows, tokens,
        )  # fmt: skip
        passed = learner.read(batch) if optimiser.looks_back else None
        if self.policy.beta:
            batch = replace(batch, reference=learner.reference(batch, optimiser.compares))
        if passed is None:
            return batch, None, {}
        old = passed.log_probs.detach()
        values = passed.values.detach() if passed.values is not None else None
        weight = pairs.by_table(weights, (old * mask).sum(dim=1)) * self._importance(old, mask, rollouts, drawn_with, pairs)
        batch = replace(batch, old=old, values=values, weight=weight)
        figures: dict[str, float] = {}
        if self.policy.credit == "token":
            batch, noise = self._credited(batch, examples, rollouts)
            figures["credit_noise"] = noise
        return batch, passed, figures

    def _importance(
        self, old: torch.Tensor, mask: torch.Tensor, rollouts: Sequence[Rollout], drawn_with: Sequence[Sequence[float]] | None, pairs: Pairs
    ) -> torch.Tensor:
        """(r,): pi / the engine's probability of each answer, at most MOST_IMPORTANCE; 1 where the engine draws from the policy itself."""
        if drawn_with is None:
            return torch.ones(len(old), device=old.device)
        known = torch.tensor([sum(drawn_with[n]) if n < len(drawn_with) else 0.0 for n in range(len(rollouts))], device=old.device)
        drawn = torch.tensor([r.request is not None for r in rollouts], device=old.device)
        answers = pairs.rollouts.to(old.device)
        mine = (old * mask).sum(dim=1)[pairs.home.to(old.device)]
        return torch.where(drawn[answers], (mine - known[answers]).exp().clamp(max=MOST_IMPORTANCE), 1.0)

    def _credited(self, batch: RolloutBatch, examples: Sequence[Example], rollouts: Sequence[Rollout]) -> tuple[RolloutBatch, float]:
        """The batch with rewards (r, c) of each token, and the noise that is left, as a share of the variance of rewards."""
        width, long, pairs = batch.ids.shape[1], self.policy.max_new_tokens, batch.pairs
        questions = {e.family: e.question for e in examples}
        # As if all answers were as long as they may be: processes must agree on places.
        texts = [[self.read(r.ids[:place]) for place in credit.places(long)] for r in rollouts]
        foretold = self.rewards.beginnings([questions[r.family] for r in rollouts], texts, [e.targets for e in examples], pairs)
        padded_mask = F.pad(batch.mask, (0, long - width))
        returns, noise = credit.credited(
            batch.rewards,
            credit.spread(foretold, long).to(batch.ids.device),
            batch.weight.unsqueeze(1) * padded_mask,
            lambda *values: pairs.by_table(centred, *values),
            total,
        )
        tokens = total(padded_mask.sum(dim=0).to(noise))
        return replace(batch, rewards=returns[:, :width]), float((noise * tokens).sum() / tokens.sum())
