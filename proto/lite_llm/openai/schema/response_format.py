"""``response_format``: what an answer's text must be."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from lite_llm.contracts.errors import InvalidRequest

ANY_OBJECT = '{"type":"object"}'


class JsonSchema(Struct, frozen=True, kw_only=True):
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True, kw_only=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def to_schema(self) -> str | None:
        """The JSON schema of the answer, as JSON; None: any text."""
        match self.type:
            case "text":
                return None
            case "json_object":
                return ANY_OBJECT
        if self.json_schema is None or self.json_schema.schema is None:
            raise InvalidRequest(
                "response_format of type json_schema has no schema",
                where="response_format",
                remedy="put it into response_format.json_schema.schema",
            )
        return msgspec.json.encode(self.json_schema.schema).decode()
