"""How routes that read their own bodies describe themselves in /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from mmada.serve.response_schema import ErrorResponse

__all__ = ["ERRORS", "answers", "form_body", "json_body"]

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "The request cannot be served as it is"},
    "5XX": {"model": ErrorResponse, "description": "The server failed, is busy or shuts down"},
}


def answers(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """An answer, whole or as a stream of events, or an error."""
    text = {"type": "string"}
    stream = {"type": "object", "description": "One event.", "properties": {"data": text, "event": text}, "required": ["data"]}
    return {200: {"model": model, "content": {"text/event-stream": {"schema": stream}}}, **ERRORS}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A body of JSON."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _inlined(model)}}}}


def form_body(model: type[BaseModel], required: list[str], optional: list[str], *, also: type[BaseModel] | None = None) -> dict[str, Any]:
    """A form with files, or JSON of another model."""
    schema = _inlined(model)
    file = {"type": "string", "format": "binary"}
    schema["properties"] = {**schema["properties"], **dict.fromkeys([*required, *optional], file)}
    schema["required"] = [*schema.get("required", []), *required]
    content: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
    if also is not None:
        content["application/json"] = {"schema": _inlined(also)}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema without references, which would point into another document."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(parts[node["$ref"].rpartition("/")[2]])
            return {key: resolve(value) for key, value in node.items()}
        return [resolve(value) for value in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = _without_mappings(resolve(schema))
    return resolved


def _without_mappings(node: Any) -> Any:
    """Discriminators name their forms by references too; the forms themselves say as much."""
    if isinstance(node, dict):
        return {key: _without_mappings(value) for key, value in node.items() if not (key == "discriminator" and isinstance(value, dict))}
    return [_without_mappings(value) for value in node] if isinstance(node, list) else node
