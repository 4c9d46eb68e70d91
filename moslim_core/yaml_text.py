"""YAML as people write settings in it: what a scalar is, the setting's type says; and a name that stands twice is refused.

YAML's own loaders guess from a scalar's look, by rules of 2005: `no` is false, 1_0 ten, 010 eight, 1:30 ninety, 2024-01-01 a date, 1e-4
text; and of a name that stands twice the last one wins.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from moslim_core.json_text import is_text

_NULL, _MERGE, _TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("null", "merge", "str"))


class TextLoader(yaml.SafeLoader):
    """Every scalar is the text that it is, but for null (~, or nothing) where it is not quoted. Raises yaml.YAMLError where a mapping has
    a name twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        names = [key.value for key in keys]
        for key in keys:
            if names.count(key.value) > 1:
                raise yaml.YAMLError(f"{key.value} stands twice in one mapping")
            if key.tag == _NULL:
                key.tag = _TEXT
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if isinstance(text, str) and not is_text(text):
            # A character beyond 16 bits, escaped as in JSON: as two halves.
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return text


TextLoader.yaml_implicit_resolvers = {
    **{first: [(_NULL, re.compile(r"(?:~|null|Null|NULL|)\Z"))] for first in ("~", "n", "N", "")},
    "<": [(_MERGE, re.compile(r"<<\Z"))],
}


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's `object_pairs_hook`. Raises ValueError where a name stands twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice")
    return made
