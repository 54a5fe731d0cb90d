"""What the OpenAPI document says of the bodies that the endpoints read themselves."""

from typing import Any

ERROR = {
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
            "example": {"error": "input 'image' has datatype 'FP32'; this model takes UINT8"},
        }
    }
}

_ROUTE_HEADERS = {
    name: {"schema": {"type": "string"}, "description": text}
    for name, text in (
        ("x-tandem-variant", "student, teacher, or mixed where rows differ"),
        ("x-tandem-reason", "confident, escalated, pinned, fallback:overload|timeout|unavailable, or mixed"),
        ("x-tandem-release", "the Release that answered"),
    )
}

_CONTROL_HEADERS: list[dict[str, Any]] = [
    {"name": name, "in": "header", "required": False, "schema": schema, "description": text}
    for name, schema, text in (
        ("x-tandem-mode", {"type": "string", "enum": ["cascade", "teacher", "student"]}, "who may answer"),
        ("x-tandem-allow-fallback", {"type": "boolean"}, "false: the teacher's answer or 503/504, never a stand-in"),
        ("x-request-timeout-seconds", {"type": "number"}, "how long the answer may take; after it Ray Serve says 408"),
        ("x-tandem-ab-key", {"type": "string"}, "the same key always gets the same Release"),
    )
]

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {
            "type": "string",
            "description": "the model's tensor, or in its place payload: the text or image file of each row as BYTES",
        },
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {
            "type": "string",
            "description": "that of the model's metadata, such as UINT8, INT64, FP16 or FP32",
        },
        "parameters": {
            "type": "object",
            "description": "binary_data_size; content_type: base64 where payload's strings are files",
        },
        "data": {"type": "array", "items": {}},
    },
}

_INFER_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "description": "mode, allow_fallback, deadline_ms, ab_key, probabilities, binary_data_output",
        },
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
    },
}

_INFER_RESPONSE = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {"type": "object", "description": "release; variant and reason, one a row, joined by commas"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}

_PREDICTION = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "release": {"type": "string"},
        "variant": {"type": "string"},
        "reason": {"type": "string"},
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"label": {"type": "string"}, "probability": {"type": "number"}},
            },
        },
        "latency_ms": {"type": "number"},
    },
}

_BINARY = {"schema": {"type": "string", "format": "binary"}}

INFER: dict[str, Any] = {
    "parameters": [
        *_CONTROL_HEADERS,
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "required": False,
            "schema": {"type": "integer"},
            "description": "length of the JSON, where binary tensors follow it",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _INFER_REQUEST}, "application/octet-stream": _BINARY},
    },
}
INFER_ANSWER = {
    "description": "The model's outputs",
    "headers": _ROUTE_HEADERS,
    "content": {"application/json": {"schema": _INFER_RESPONSE}, "application/octet-stream": _BINARY},
}

PREDICT: dict[str, Any] = {
    "parameters": _CONTROL_HEADERS,
    "requestBody": {
        "required": True,
        "content": {
            "image/png": _BINARY,
            "image/jpeg": _BINARY,
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
            },
            "application/json": {
                "schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
            },
        },
    },
}
PREDICT_ANSWER = {
    "description": "Every label with its probability, the most probable first",
    "headers": _ROUTE_HEADERS,
    "content": {"application/json": {"schema": _PREDICTION}},
}

_DURATION = {"type": "object", "properties": {"count": {"type": "integer"}, "ns": {"type": "integer"}}}
_STATISTICS = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "last_inference": {"type": "integer", "description": "Unix time in milliseconds"},
        "inference_count": {"type": "integer", "description": "rows"},
        "execution_count": {"type": "integer", "description": "batches"},
        "inference_stats": {"type": "object", "additionalProperties": _DURATION},
        "batch_stats": {"type": "array", "items": {"type": "object"}},
    },
}

STATISTICS_ANSWER = {
    "description": "What this replica has counted since it started, a version each",
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"model_stats": {"type": "array", "items": _STATISTICS}}}
        }
    },
}
