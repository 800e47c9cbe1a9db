"""Shipped recipes, one YAML file each; the header of a file names its source."""

from __future__ import annotations

from typing import Any

import yaml

from trainer.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML without what would count as something else without a word: keys that stand twice, numbers to base 60."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number; YAML 1.1 reads 1:30 as 90, which YAML 1.2 and nobody else does."""
        is_float = node.tag.endswith("float")
        number: int | float = self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)
        if ":" in node.value:
            problem = (
                f"{node.value} would be read as {number:g}, a number to base 60; write that if it is meant"
            )
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return number


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def parse_yaml(text: str, wrong: str) -> Any:
    """What a YAML document holds. Raises: ConfigError that begins with `wrong` if it is none."""
    try:
        return yaml.load(text, _Loader)  # a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # its numbers and dates are Python's
        raise ConfigError(f"{wrong}: {' '.join(str(error).split())[:300]}") from None
