"""YAML as people write settings in it, with a name that stands twice refused: YAML's own loaders let the last one win silently."""

from __future__ import annotations

from typing import Any

import yaml


class _Unique:
    """Mix-in before a YAML loader. Raises yaml.YAMLError where a mapping has a name twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise yaml.YAMLError(f"{name} stands twice in one mapping")
        made: dict[Any, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        return made


class UniqueLoader(_Unique, yaml.SafeLoader):
    """Values typed as YAML has them."""


class UniqueTextLoader(_Unique, yaml.BaseLoader):
    """Every value as text."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's `object_pairs_hook`. Raises ValueError where a name stands twice."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice")
    return made
