"""What is said to Cassandra and understood of its answers otherwise than the driver does by itself.

Timestamps stay numbers (the driver makes datetimes, which lose what their range and precision cannot hold) and maps
stay bytes (the driver makes a mapping that serialises its keys to find one) until `lern.store.cassandra_codec`.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any, ClassVar, Final

from cassandra.cqltypes import BytesType, DateType, LongType, MapType
from cassandra.protocol import BatchMessage, ExecuteMessage, ProtocolHandler, ResultMessage
from cassandra.query import BatchStatement, BatchType

# Of a statement's flags.
_SKIP_METADATA: Final = 0x02
_PREPARED: Final = b"\x01"
_SHORT: Final = struct.Struct(">H")


@lru_cache(maxsize=1024)
def _as_read(kind: Any) -> Any:
    """Give the type by which a column is read, and types within it, in place of the driver's."""
    if issubclass(kind, MapType):
        return BytesType
    if issubclass(kind, DateType):
        return LongType
    within = tuple(map(_as_read, kind.subtypes))
    return kind if within == tuple(kind.subtypes) else type(kind.__name__, (kind,), {"subtypes": within})


def _described(columns: Sequence[tuple[str, str, str, Any]] | None) -> list[tuple[str, str, str, Any]]:
    return [(keyspace, table, name, _as_read(kind)) for keyspace, table, name, kind in columns or ()]


class _Result(ProtocolHandler.message_types_by_opcode[ResultMessage.opcode]):  # type: ignore[misc]  # see above
    """What the server answers; a result is read by the columns that come with it, or else by those `known` before."""

    column_metadata: Any

    def recv(self, file: Any, version: int, user_types: Any, known: Any, policy: Any) -> None:
        super().recv(file, version, user_types, _described(known), policy)

    def recv_results_metadata(self, file: Any, user_types: Any) -> None:
        super().recv_results_metadata(file, user_types)
        self.column_metadata = _described(self.column_metadata)


class _Execute(ExecuteMessage):  # type: ignore[misc]  # the driver has no types
    """A prepared statement to be run, whose result comes without a description of its columns.

    The driver has that from preparing the statement, reads results by it, and forgets to tell the server. In a
    description that has changed since (the protocol compares its id) the server goes on to send it.
    """

    def _write_query_params(self, file: Any, version: int) -> None:
        written = BytesIO()
        super()._write_query_params(written, version)
        params = bytearray(written.getvalue())
        # After the consistency level (two bytes) come the flags, of four bytes since version 5, the lowest last.
        params[2 + 3] |= _SKIP_METADATA
        file.write(params)


class Mutation(BatchStatement):  # type: ignore[misc]  # the driver has no types
    """Writes on one partition, as bytes: they become one mutation, which has no use for the batch log.

    The driver would put the bytes together one value after the other, which takes longer than making them.
    `writes`: as `write` begins them, then the cells of each (`lern.store.cassandra_codec`).
    """

    def __init__(self, keyspace: str, partition: Sequence[bytes], writes: Sequence[bytes]) -> None:
        """Take the writes."""
        super().__init__(BatchType.UNLOGGED)
        self.keyspace = keyspace
        self.routing_key = partition
        self._statements_and_parameters = writes


def write(query_id: bytes, cells: int) -> bytes:
    """Give what a write in a mutation begins with: a prepared statement, and how many cells follow."""
    return _PREPARED + _SHORT.pack(len(query_id)) + query_id + _SHORT.pack(cells)


class _Batch(BatchMessage):  # type: ignore[misc]  # the driver has no types
    """A mutation on its way."""

    queries: Sequence[bytes]

    def send_body(self, file: Any, version: int) -> None:
        writes, self.queries = self.queries, ()
        without = BytesIO()
        super().send_body(without, version)
        self.queries = writes
        # The kind of batch (a byte), how many writes, the writes, the rest.
        around = without.getvalue()
        file.write(b"".join([around[:1], _SHORT.pack(len(writes)), *writes, around[1 + _SHORT.size :]]))


class Protocol(ProtocolHandler):  # type: ignore[misc]  # the driver has no types
    """The driver's protocol (in C where that is installed) with results that leave times and maps to us."""

    message_types_by_opcode: ClassVar = {**ProtocolHandler.message_types_by_opcode, ResultMessage.opcode: _Result}

    @classmethod
    def encode_message(cls, message: Any, *rest: Any, **more: Any) -> Any:
        """Encode what is sent."""
        if type(message) is ExecuteMessage and message.skip_meta:
            message.__class__ = _Execute  # it is the same but for what it asks for
        elif type(message) is BatchMessage:
            message.__class__ = _Batch
        return super().encode_message(message, *rest, **more)
