"""The API's own description, made of the heads' declarations and the limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import __version__
from ..bundle.contract import MOST_SEGMENTS, Manifest
from ..heads import HEADS
from .answers import FORMATS, LABELS, OVERLAY, RECORD
from .limits import Limits
from .questions import MOST_VIEW

_STATUSES: dict[int, str] = {
    400: "The request is put together wrongly.",
    401: "The server asks for its token.",
    404: "The look is not kept; post the picture again.",
    413: "More than the server takes on.",
    415: "Another type than the ones listed.",
    422: "No picture, or names or settings that cannot be.",
    429: "Too many pictures wait; Retry-After says when to come again.",
    503: "Memory does not suffice.",
    504: "It took too long.",
}


def describe(limits: Limits, manifest: Manifest) -> dict[str, Any]:
    """The description, OpenAPI 3.1.

    Args:
        limits: of the server.
        manifest: of its model.
    """
    question = _question(limits, manifest)
    own_size = {k: v for k, v in question.items() if k == "max_size"}
    of_look = {k: v for k, v in question.items() if k != "max_size"}
    files = {
        "application/json": _ref("Record"),
        "image/png": _binary(),
        "application/zip": _binary(),
        "application/octet-stream": _binary(),
    }
    look = {"name": "look", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mdrt",
            "version": __version__,
            "description": "Segments pictures into classes you name, or into segments without "
            f"names. The model is {manifest.model_id}.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/segment": {
                "post": _operation(
                    "segment",
                    "Segment pictures: one, or several at once.",
                    _answer(
                        "What format asks for; of several pictures a list or an archive.", files
                    ),
                    (400, 401, 413, 415, 422, 429, 503, 504),
                    _pictures(question, limits),
                )
            },
            "/v1/looks": {
                "post": _operation(
                    "openLook",
                    "Keep a picture that is asked more than once.",
                    {"201": _answer("The look.", {"application/json": _ref("Look")})["200"]},
                    (400, 401, 413, 415, 422, 429, 503, 504),
                    _pictures(own_size, limits, most=1),
                )
            },
            "/v1/looks/{look}/segment": {
                "parameters": [look],
                "post": _operation(
                    "askLook",
                    "Ask a look: other words cost what they add, with words=late milliseconds.",
                    _answer("What format asks for.", files),
                    (400, 401, 404, 413, 415, 422, 429, 503, 504),
                    {"application/json": {"schema": _object(of_look | {"name": _NAME})}},
                ),
            },
            "/v1/looks/{look}": {
                "parameters": [look],
                "delete": _operation(
                    "closeLook",
                    "Let a look go.",
                    {"204": {"description": "It is gone."}},
                    (401, 404, 429),
                ),
            },
            "/v1/heads": {
                "get": _operation(
                    "heads",
                    "The heads, and the settings of each.",
                    _answer("Heads.", {"application/json": {"type": "array", "items": _any()}}),
                    (401,),
                )
            },
            "/v1/model": {
                "get": _operation(
                    "model",
                    "The model, the limits and the formats.",
                    _answer("The model.", {"application/json": _any()}),
                    (401,),
                )
            },
            "/health": {
                "get": _operation(
                    "health",
                    "That the server is there.",
                    _answer("It is.", {"application/json": _any()}),
                )
            },
            "/ready": {
                "get": _operation(
                    "ready",
                    "Whether a picture would be taken now.",
                    _answer("It would.", {"application/json": _any()})
                    | {"503": {"description": "The line is full, or the server ends."}},
                )
            },
            "/metrics": {
                "get": _operation(
                    "metrics",
                    "Counts for Prometheus.",
                    _answer("Counts.", {"text/plain": {"type": "string"}}),
                    (401,),
                )
            },
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _SCHEMAS,
        },
    }


_NAME = {"type": "string", "description": "What the picture is called in the answer."}

_SCHEMAS: Mapping[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "What was wrong, in one line."}},
    },
    "Look": {
        "type": "object",
        "required": ["look", "size", "max_size"],
        "properties": {
            "look": {"type": "string", "description": "The handle to ask it by."},
            "size": {"type": "array", "items": {"type": "integer"}, "description": "(H, W)."},
            "max_size": {"type": "integer"},
        },
    },
    "Record": {
        "type": "object",
        "description": "The record of `mdrt segment`, with `unknown` (names the model never saw), "
        "`view` if it was asked for, and `look` if one was asked.",
        "properties": {
            "size": {"type": "array", "items": {"type": "integer"}},
            "classes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "label": {"type": "integer"},
                        "name": {"type": "string"},
                        "colour": {"type": "string"},
                        "pixels": {"type": "integer"},
                        "share": {"type": "number"},
                        "confidence": {"type": ["number", "null"]},
                    },
                },
            },
            "unknown": {"type": "array", "items": {"type": "string"}},
        },
    },
}


def _question(limits: Limits, manifest: Manifest) -> dict[str, Any]:
    offered = [head.name for head in HEADS.values() if head.offered(manifest)]
    name = {"type": "string", "maxLength": limits.characters}
    return {
        "classes": {
            "description": "Names; a list within the list is one class with synonyms. In a form or "
            f"query: names with commas between, or this as JSON. At most {limits.names}.",
            "type": "array",
            "items": {"anyOf": [name, {"type": "array", "items": name, "minItems": 1}]},
            "maxItems": limits.names,
            "minItems": 1,
        },
        "segments": {
            "description": "How many segments without names; instead of classes.",
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "maximum": MOST_SEGMENTS},
            ],
        },
        "head": {"enum": offered, "description": "How the picture is read; see /v1/heads."},
        "settings": {
            "type": "object",
            "description": "Of the head. In a form or query: as JSON.",
        },
        "background": {"type": "string", "description": "A class that is left uncoloured."},
        "max_size": {
            "description": "Pixels of the longer side that the network sees.",
            "type": "integer",
            "minimum": 1,
            "maximum": limits.max_size,
        },
        "format": {
            "description": "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
            + f". All but {RECORD}, {LABELS} and {OVERLAY} are as of `mdrt segment --format`.",
            "enum": list(FORMATS),
            "default": RECORD,
        },
        "view": {
            "description": "Adds a map for screens to the record, of so many pixels a side: a "
            "PNG whose red and green are the label's low and high byte, blue the confidence.",
            "type": "integer",
            "minimum": 16,
            "maximum": MOST_VIEW,
        },
    }


def _pictures(
    question: Mapping[str, Any], limits: Limits, most: int | None = None
) -> dict[str, Any]:
    """The bodies that bring pictures."""
    most = limits.pictures if most is None else most
    encoded = {
        "description": "A picture's file in base64, bare or as a data URI.",
        "anyOf": [
            {"type": "string", "contentEncoding": "base64"},
            {
                "type": "object",
                "required": ["data"],
                "properties": {
                    "name": _NAME,
                    "data": {"type": "string", "contentEncoding": "base64"},
                },
            },
        ],
    }
    several = {"images": {"type": "array", "items": encoded, "maxItems": most}} if most > 1 else {}
    form = {
        "image": {
            "description": f"Pictures' files; at most {most}.",
            "type": "array",
            "items": {"type": "string", "contentMediaType": "image/*"},
            "maxItems": most,
            "minItems": 1,
        }
    }
    return {
        "multipart/form-data": {"schema": _object(form | dict(question), ["image"])},
        "application/json": {"schema": _object({"image": encoded} | several | dict(question))},
        "image/*": {"schema": {"type": "string", "contentMediaType": "image/*"}},
    }


def _operation(
    name: str,
    summary: str,
    responses: Mapping[str, Any],
    statuses: tuple[int, ...] = (),
    bodies: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    told = {
        str(status): {
            "description": _STATUSES[status],
            "content": {"application/json": {"schema": _ref("Error")}},
        }
        for status in statuses
    }
    body = {} if bodies is None else {"requestBody": {"content": dict(bodies)}}
    return {"operationId": name, "summary": summary, **body, "responses": {**responses, **told}}


def _answer(text: str, content: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {media: {"schema": schema} for media, schema in content.items()}
    return {"200": {"description": text, "content": kinds}}


def _object(properties: Mapping[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    found = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return found | ({"required": required} if required else {})


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _binary() -> dict[str, Any]:
    return {"type": "string", "contentMediaType": "application/octet-stream"}


def _any() -> dict[str, Any]:
    return {"type": "object"}
