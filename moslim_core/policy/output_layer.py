"""How probable chosen tokens are, without all logits at once: the output layer reads a few tokens at a time. (ours)

A small chat model has 85 times as many tokens in its vocabulary as numbers in a hidden state: the logits of all answers, their softmax
and its gradient would be most of an update's memory. The gradient of a log-probability by its hidden state is
(w_chosen - sum_v p_v w_v) / temperature, no larger than the state. It is computed on the way forth, while the logits are there, and the way
back only scales it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Logits that are there at one time: enough that reading the layer's weights is not what takes the time, and 64 MiB on a CPU, 256 on a GPU.
LOGITS = {"cpu": 2**24}
GPU_LOGITS = 2**26


def plain_output_layer(model: Any) -> nn.Linear | None:
    """The linear map from a model's last hidden states to its logits; None where there is more to them (a soft cap, a scale, an adapter).

    A pass over two tokens tells.
    """
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear:
        return None
    with torch.no_grad():
        read = model(input_ids=torch.tensor([[0, 1]], device=model.device), output_hidden_states=True, use_cache=False)
        return layer if torch.equal(layer(read.hidden_states[-1]), read.logits) else None


def chosen_log_probs(states: Tensor, layer: nn.Linear, chosen: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (n,) in nats, float32, of tokens `chosen` (n,) after hidden states (n, h). No gradient goes to the layer."""
    log_probs: Tensor = _Chosen.apply(states, layer.weight.detach(), layer.bias, chosen, temperature)
    return log_probs


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, chosen: Tensor, temperature: float) -> Tensor:
        slopes = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        log_probs = []
        together = max(1, LOGITS.get(states.device.type, GPU_LOGITS) // len(weight))
        for first in range(0, len(chosen), together):
            rows = slice(first, first + together)
            logits = F.linear(states[rows], weight, bias).float()
            if temperature != 1:
                logits /= temperature
            own = logits.gather(1, chosen[rows].unsqueeze(1))
            most = logits.amax(dim=1, keepdim=True)
            odds = logits.sub_(most).exp_()
            total = odds.sum(dim=1, keepdim=True)
            log_probs.append((own - most - total.log()).squeeze(1))
            if slopes is not None:
                # One product for both parts: w_chosen less the expectation, which nearly cancel where a token is sure, is rounded once.
                shares = odds.div_(-total)
                shares.scatter_add_(1, chosen[rows].unsqueeze(1), torch.ones_like(own))
                slopes[rows] = (shares.to(weight.dtype) @ weight) / temperature
        if slopes is not None:
            ctx.save_for_backward(slopes)
        return torch.cat(log_probs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * gradients[0].unsqueeze(1).to(slopes.dtype), None, None, None, None
