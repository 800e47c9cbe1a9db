"""Shipped recipes, one YAML file each; the header of a file names its source."""

from __future__ import annotations

from typing import Any

import yaml

from trainer.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML without keys that stand twice, of which the last would count without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, wrong: str) -> Any:
    """What a YAML document holds. Raises: ConfigError that begins with `wrong` if it is none."""
    try:
        return yaml.load(text, _Loader)  # a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # its numbers and dates are Python's
        raise ConfigError(f"{wrong}: {' '.join(str(error).split())[:300]}") from None
