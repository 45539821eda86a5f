"""The JSON schema of a config as users write it, generated from `RunConfig`."""

from __future__ import annotations

from typing import Any

from crs_sc.run.config import RunConfig

__all__ = ["config_schema"]

# What YAML may make of a name such as 1, 2.5 or true.
_NAME = {"type": ["string", "number", "boolean"]}
_NAMES = ("name", "treated", "reference")


def config_schema() -> dict[str, Any]:
    """JSON schema of the YAML of a config.

    It says what `load_config` accepts, for editors that complete and check YAML; what depends on
    several settings, or on files, `load_config` alone can say.

    Returns
    -------
    Draft 2020-12 schema: the model's own, with a single file as `input`, empty settings (which
    mean the default) and names that YAML reads as numbers.
    """
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Config of a crs-sc run"
    properties = schema["properties"]
    files = properties["input"]
    properties["input"] = {
        "description": files["description"],
        "anyOf": [{"type": "string"}, {key: files[key] for key in ("type", "items")}],
    }
    for name in set(properties) - set(schema["required"]):
        properties[name] = {"anyOf": [properties[name], {"type": "null"}]}
    contrast = schema["$defs"]["Contrast"]["properties"]
    contrast.update(dict.fromkeys(_NAMES, _NAME))
    contrast["baseline"] = {"anyOf": [_NAME, {"type": "null"}]}
    return schema
