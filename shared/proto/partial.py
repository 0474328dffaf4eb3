"""Messages of other people's formats, as far as we read them: no stubs, and no further package.

Fields that are not named are kept, and written again as they were.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Kind = descriptor_pb2.FieldDescriptorProto
Schema = Mapping[str, tuple[tuple[str, int, Any, bool], ...]]
"""By message: (field, number, a scalar type of ``Kind`` or a message's name, whether repeated)."""


class PartialFormat:
    """Messages of one format, made when they are first asked for."""

    def __init__(self, package: str, schema: Schema, *, syntax: str = "proto3") -> None:
        """package: a name of our own, for messages of errors."""
        self._package, self._schema, self._syntax = package, schema, syntax

    def message(self, name: str) -> Any:
        """The class of a message."""
        return message_factory.GetMessageClass(
            self._pool.FindMessageTypeByName(f"{self._package}.{name}")
        )

    @functools.cached_property
    def _pool(self) -> descriptor_pool.DescriptorPool:
        file = descriptor_pb2.FileDescriptorProto(
            name=f"featherwire/{self._package}.proto", package=self._package, syntax=self._syntax
        )
        for message, fields in self._schema.items():
            declared = file.message_type.add(name=message)
            for name, number, kind, repeated in fields:
                label = Kind.LABEL_REPEATED if repeated else Kind.LABEL_OPTIONAL
                field = declared.field.add(name=name, number=number, label=label)
                if isinstance(kind, str):
                    field.type, field.type_name = Kind.TYPE_MESSAGE, f".{self._package}.{kind}"
                else:
                    field.type = kind
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        return pool
