"""Protobuf with text that is no UTF-8, which some senders write and the library refuses as a whole: read all the same.

The message's own description is taken with all texts as bytes; what is no UTF-8 in these is replaced, and what comes
out is read as the message that it is. This is for what was refused only: it takes several times as long.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

TEXT, BYTES, NESTED = (
    FieldDescriptorProto.TYPE_STRING,
    FieldDescriptorProto.TYPE_BYTES,
    FieldDescriptorProto.TYPE_MESSAGE,
)


def lenient(kind: type[Message], body: bytes) -> Any:
    """The message in ``body``, or None where that is none even so."""
    made, texts = _with_bytes(kind.DESCRIPTOR.full_name)
    found, clean = made(), kind()
    try:
        found.ParseFromString(body)
        _replace(found, texts)
        clean.ParseFromString(found.SerializeToString())
    except (DecodeError, RecursionError, ValueError):
        return None
    return clean


def _replace(message: Any, texts: frozenset[str]) -> None:
    for field, value in message.ListFields():
        many = not hasattr(value, "ListFields") and not isinstance(value, bytes) and hasattr(value, "__len__")
        if field.type == NESTED:
            for one in value if many else (value,):
                _replace(one, texts)
        elif field.full_name in texts:
            if many:
                value[:] = [_clean(one) for one in value]
            else:
                setattr(message, field.name, _clean(value))


def _clean(text: bytes) -> bytes:
    return text.decode("utf-8", "replace").encode()


@cache
def _with_bytes(name: str) -> tuple[type[Message], frozenset[str]]:
    """The class of a message whose texts are bytes, and the names of the fields that are texts."""
    pool, texts = DescriptorPool(), set[str]()

    def add(described: Any) -> None:
        for needed in described.dependencies:
            add(needed)
        copy = FileDescriptorProto()
        described.CopyToProto(copy)
        for message in copy.message_type:
            _change(message, copy.package, texts)
        pool.Add(copy)

    add(Default().FindMessageTypeByName(name).file)
    return GetMessageClass(pool.FindMessageTypeByName(name)), frozenset(texts)


def _change(message: DescriptorProto, above: str, texts: set[str]) -> None:
    name = f"{above}.{message.name}"
    for field in message.field:
        if field.type == TEXT:
            field.type = BYTES
            texts.add(f"{name}.{field.name}")
    for nested in message.nested_type:
        _change(nested, name, texts)
