"""The published schema of the wire says what the types say, and its vectors are what they are said to be.

After a change of :mod:`mesh.core.wire`: ``python -m tests.unit.core.test_wire_schema`` writes it anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from mesh.core.frames import FrameReader, decode_message, frames_of
from mesh.core.wire import PROTOCOL_MAX, Message
from mesh.errors import ProtocolViolation

SCHEMAS = Path(__file__).parents[3] / "schema"
VECTORS = json.loads((SCHEMAS / "vectors" / "wire.json").read_text())

DESCRIPTION = (
    "Every message on a link, in its JSON form: bytes are base64 text here, and plain bytes in the msgpack "
    "that travels. The first element is the tag; a message with an unknown tag is skipped, and so are "
    "elements after those that are known. A message travels in frames, each a binary WebSocket message of at "
    "most 262144 bytes: byte 0 and the msgpack; or byte 1 and its zlib stream; or byte 2, a stream number "
    "(u32, big-endian), flags (u8: 1 for the last piece, 2 for a zlib stream) and a piece of the message."
)


def generated() -> str:
    """The schema as text."""
    types = msgspec.json.schema(Message)
    known = [types["$defs"][ref["$ref"].rpartition("/")[2]] for ref in types["anyOf"]]
    tags = sorted(tag for message in known for tag in message["prefixItems"][0]["enum"])
    unknown = {
        "title": "Unknown",
        "description": "Said by a newer peer: skipped.",
        "type": "array",
        "prefixItems": [{"type": "integer", "not": {"enum": tags}}],
        "minItems": 1,
    }
    for kind in types["$defs"].values():
        kind.pop("description", None)  # docstrings may change without the wire
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:docmesh:schema:wire:{PROTOCOL_MAX}",
        "title": "Wire message",
        "description": DESCRIPTION,
        "anyOf": [*types["anyOf"], unknown],
        "$defs": types["$defs"],
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _message(plain: Any) -> Message:
    message: Message = msgspec.json.decode(json.dumps(plain), type=Message)
    return message


def _validator() -> Draft202012Validator:
    schema = json.loads((SCHEMAS / "wire.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_schema_says_what_the_types_say() -> None:
    anew = "`python -m tests.unit.core.test_wire_schema` writes it anew"
    assert (SCHEMAS / "wire.schema.json").read_text() == generated(), anew


@pytest.mark.parametrize("plain", VECTORS["valid"], ids=lambda plain: str(plain[0]))
def test_valid_messages_are_read_and_written(plain: Any) -> None:
    _validator().validate(plain)
    message = _message(plain)
    _validator().validate(json.loads(msgspec.json.encode(message)))
    reader = FrameReader()
    assert [reader.feed(frame) for frame in frames_of(message, 1)][-1] == message


@pytest.mark.parametrize("plain", VECTORS["skipped"], ids=str)
def test_messages_of_newer_peers_are_skipped(plain: Any) -> None:
    _validator().validate(plain)
    assert decode_message(msgspec.msgpack.encode(plain)) is None


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: str(vector["why"]))
def test_invalid_messages_are_refused_by_schema_and_reader(vector: dict[str, Any]) -> None:
    assert not _validator().is_valid(vector["value"])
    with pytest.raises(msgspec.ValidationError):
        _message(vector["value"])
    with pytest.raises(ProtocolViolation):
        decode_message(msgspec.msgpack.encode(vector["value"]))


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda vector: str(vector["why"]))
def test_frames_become_the_message_that_they_carry(vector: dict[str, Any]) -> None:
    reader = FrameReader()
    *pieces, last = [reader.feed(bytes.fromhex(frame)) for frame in vector["hex"]]
    assert (set(pieces) | {None}, last) == ({None}, _message(vector["message"]))


@pytest.mark.parametrize("vector", VECTORS["invalid_frames"], ids=lambda vector: str(vector["why"]))
def test_invalid_frames_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation):
        FrameReader().feed(bytes.fromhex(vector["hex"]))


if __name__ == "__main__":
    (SCHEMAS / "wire.schema.json").write_text(generated())
