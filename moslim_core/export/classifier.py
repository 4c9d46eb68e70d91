"""The reward model as a plain classifier of transformers, all heads in one: one label a level, named `warmth=2`. (ours)

What opens it depends on how the backbone's states become one. The first token's is what `AutoModelForSequenceClassification` of BERT's
kind reads, through a layer and a squashing function, which are made to change nothing. A mean over tokens, or a decoder's last token, no
such class reads with a bias; `AutoModelForTokenClassification` gives the labels' logits of each token, and their mean, or the last of
them, is the same. Only what gives the reward model's own numbers on a trial is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from moslim_core.errors import UserError
from moslim_core.export.folder import new_folder
from moslim_core.export.merged import weight_bytes
from moslim_core.models.loading import load_weights
from moslim_core.reward.heads import ClassificationHead, OrdinalHead, RegressionHead, TwoHotHead
from moslim_core.reward.model import MultiHeadRewardModel, pool, read_config, reward_tokenizer

# Of a logit's size: what single precision and a squashing function near 0 leave.
TOLERANCE = 1e-3
# A state times this passes through tanh unchanged; a state plus this through GELU.
SMALL, LARGE = 2.0**-10, 64.0
SEQUENCE, TOKEN = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"


class Labels(NamedTuple):
    """Labels, and the linear map (n, d), (n,) that gives their logits from a pooled state."""

    names: list[str]
    weight: torch.Tensor
    bias: torch.Tensor


def export_classifier(reward: Path, output: Path) -> Path:
    """Write the reward model in `reward` to `output`. Raises UserError where its form has no plain class, and as `new_folder` does."""
    config = read_config(reward)
    if not config.shared:
        raise UserError(
            f"--to classifier: {reward} has one backbone a preference, and a plain classifier has one.\n"
            "Train one with reward.shared=true, or open it as docs/export.md says: import moslim_core.reward.model, then AutoModel."
        )
    model: Any = load_weights(MultiHeadRewardModel, str(reward), str(reward)).eval()
    tokenizer = reward_tokenizer(reward, config)
    labels = labels_of(model)
    opened, plain = _plain(model, labels)
    tokenizer.model_max_length = config.max_tokens
    with new_folder(output, weight_bytes(plain)) as folder:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(readme(model, tokenizer, labels, opened), encoding="utf-8")
    return output


def labels_of(model: MultiHeadRewardModel) -> Labels:
    """The labels of all heads. Calibration is part of the logits: softmax over a preference's labels gives its probabilities.

    `warmth=2` of heads with a logit a level; `warmth>=2` of ordinal ones, by a sigmoid each, before the calibration's shifts; `warmth` of
    regression, the level itself.
    """
    names: list[str] = []
    weights, biases = [], []
    scales = model.config.scales or [1.0] * len(model.names)
    shifts = model.config.shifts or [[0.0] * head.k for head in model.head_of.values()]
    for (name, head), scale, shift in zip(model.head_of.items(), scales, shifts, strict=True):
        weight, bias = head.linear.weight.detach(), head.linear.bias.detach()
        if isinstance(head, ClassificationHead | TwoHotHead):
            names += [f"{name}={level}" for level in range(1, head.k + 1)]
            weights.append(weight / scale)
            biases.append(bias / scale + torch.tensor(shift))
        elif isinstance(head, OrdinalHead):
            names += [f"{name}>={level}" for level in range(2, head.k + 1)]
            # Outputs are thresholds less the score; a level is reached where the score is above its threshold.
            weights.append(weight.expand(head.k - 1, -1) / scale)
            at_zero = head(torch.zeros(1, weight.shape[1]))[0].detach()
            biases.append(-at_zero / scale)
        elif isinstance(head, RegressionHead):
            names.append(name)
            weights.append(weight)
            biases.append(bias + (head.k + 1) / 2)
    return Labels(names, torch.cat(weights), torch.cat(biases))


def _plain(model: MultiHeadRewardModel, labels: Labels) -> tuple[str, Any]:
    """(class that opens it, the plain model). Raises UserError where there is none that gives the same numbers."""
    pooling = model.config.pooling
    tries: list[tuple[str, Callable[[], Any]]] = [(TOKEN, lambda: _classifier(AutoModelForTokenClassification, model, labels))]
    if pooling == "cls":
        tries.insert(0, (SEQUENCE, lambda: _passed_through(_classifier(AutoModelForSequenceClassification, model, labels), labels)))
    for opened, make in tries:
        try:
            plain = make().eval()
            if _same(model, plain, labels, opened):
                return opened, plain
        except (ValueError, KeyError, AttributeError, RuntimeError, TypeError):
            # No such class for this backbone, or one of another form.
            continue
    config: Any = model.backbones[0].config
    raise UserError(
        f"--to classifier: a {config.model_type} pooled by {pooling} has no plain class here.\n"
        "Open it as docs/export.md says: import moslim_core.reward.model, then AutoModel.from_pretrained."
    )


def _classifier(loader: Any, model: MultiHeadRewardModel, labels: Labels) -> Any:
    """A plain classifier with the backbone's weights and the labels' linear map. Raises ValueError where its form is another."""
    backbone: Any = model.backbones[0]
    settings = backbone.config.to_dict()
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    config.id2label, config.label2id = dict(enumerate(labels.names)), {name: n for n, name in enumerate(labels.names)}
    config.architectures = None
    plain = loader.from_config(config)
    keys = plain.base_model.load_state_dict(backbone.state_dict(), strict=False)
    if keys.unexpected_keys or any("pooler" not in key for key in keys.missing_keys):
        raise ValueError("another backbone")
    last = _last(plain, labels)
    with torch.no_grad():
        last.weight.copy_(labels.weight)
        last.bias.copy_(labels.bias)
    return plain


def _last(plain: Any, labels: Labels) -> nn.Linear:
    """The linear map to the labels, with a bias."""
    layers = [m for m in plain.modules() if isinstance(m, nn.Linear) and m.out_features == len(labels.names) and m.bias is not None]
    if not layers:
        raise ValueError("no output layer with a bias")
    return layers[-1]


def _passed_through(plain: Any, labels: Labels) -> Any:
    """`plain` with the layer between the first token's state and the labels' map made the identity: states small before tanh, and their
    labels' weights large after it, or far in the linear part of GELU, with the labels' constants less by as much."""
    last = _last(plain, labels)
    between = next(m for name, m in plain.named_modules() if name.endswith(("pooler.dense", "classifier.dense")))
    gelu = "gelu" in str(getattr(plain.config, "pooler_hidden_act", "gelu" if plain.config.model_type == "electra" else "tanh"))
    size = between.weight.shape[0]
    with torch.no_grad():
        if gelu:
            between.weight.copy_(torch.eye(size))
            between.bias.fill_(LARGE)
            last.bias.sub_(LARGE * last.weight.sum(dim=1))
        else:
            between.weight.copy_(torch.eye(size) * SMALL)
            between.bias.zero_()
            last.weight.div_(SMALL)
    return plain


@torch.inference_mode()
def _same(model: MultiHeadRewardModel, plain: Any, labels: Labels, opened: str) -> bool:
    """Whether both give the same logits for some token ids, padded ones among them."""
    backbone: Any = model.backbones[0]
    ids = torch.randint(0, backbone.config.get_text_config().vocab_size, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    pooled = pool(backbone(input_ids=ids, attention_mask=mask).last_hidden_state, mask, model.config.pooling)
    wanted = pooled.float() @ labels.weight.T + labels.bias
    logits = plain(input_ids=ids, attention_mask=mask).logits
    logits = logits if opened == SEQUENCE else pool(logits, mask, model.config.pooling)
    return logits.shape == wanted.shape and bool((logits - wanted).abs().max() <= TOLERANCE * wanted.abs().max().clamp(min=1))


def readme(model: MultiHeadRewardModel, tokenizer: Any, labels: Labels, opened: str) -> str:
    """What the labels mean, and how it is opened and used."""
    pair = tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None
    schema = model.config.schema()
    text = (
        'inputs = tokenizer([answer], [question], truncation=True, return_tensors="pt")  # the answer first'
        if pair
        else 'text = f"Question: {question}\\n\\nAnswer: {answer}" + tokenizer.eos_token\n'
        'inputs = tokenizer([text], truncation=True, return_tensors="pt")'
    )
    one = {
        "mean": 'mask = inputs["attention_mask"].unsqueeze(-1)\nlogits = (logits * mask).sum(1) / mask.sum(1)  # the mean over the text\n',
        "last": "logits = logits[:, -1]  # the last token of one text; the last real one of each where several are padded\n",
        "cls": "logits = logits[:, 0]  # the first token's\n",
    }[model.config.pooling]
    told = {
        "classification": "`NAME=LEVEL`: softmax over the labels of one NAME gives its probabilities, calibrated.",
        "ordinal": "`NAME>=LEVEL`: a sigmoid gives the probability of that level or a higher one, before the calibration's shifts.",
        "regression": "`NAME`: the level itself, a number.",
    }
    told["two_hot"] = told["classification"]
    reading = dict.fromkeys(told[kind] for kind in model.config.head_types())
    group = schema.names[-1]
    columns = [n for n, name in enumerate(labels.names) if name.startswith((f"{group}=", f"{group}>=")) or name == group]
    last = {"ordinal": f"logits[0, {columns}].sigmoid()", "regression": f"logits[0, {columns[0]}]"}.get(
        model.config.head_types()[-1], f"logits[0, {columns}].softmax(-1)"
    )
    lines = [
        "---\nlibrary_name: transformers\ntags: [reward-model, moslim]\n---",
        "# Reward model as a plain classifier",
        "One label a level, all preferences in one model; nothing but transformers is needed.",
        "\n".join(f"- **{p.name}**: {', '.join(f'{i} = {n}' for i, n in enumerate(p.levels, 1))}" for p in schema.preferences),
        f"It opens with `{opened}`. " + " ".join(reading),
        f"```python\nfrom transformers import {opened}, AutoTokenizer\n\n"
        f"tokenizer, model = AutoTokenizer.from_pretrained(folder), {opened}.from_pretrained(folder)\n"
        f'question, answer = "How do bees make honey?", "They collect nectar."\n{text}\n'
        f"logits = model(**inputs).logits\n{'' if opened == SEQUENCE else one}"
        f"print({json.dumps([labels.names[n] for n in columns])}, {last})\n```",
        f"It was trained on texts of up to {model.config.max_tokens} tokens. It says how answers like those in its data were rated, and "
        "nothing about others. A text that holds one of the tokenizer's special tokens is read as that token.",
    ]
    return "\n\n".join(lines) + "\n"
