"""What a transaction may hold: checked before sending, the same for every store."""

from collections.abc import Sequence
from typing import Final

from chassis.kv import Compare, Delete, DeletePrefix, Op, Put

MAX_TXN_OPS: Final = 128
MAX_TXN_BYTES: Final = 1_572_864  # 1.5 MiB, etcd's --max-request-bytes
_OP_OVERHEAD_BYTES: Final = 48  # more than the tags, lengths and numbers that etcd's wire format adds to an operation


def check_txn(compare: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op]) -> None:
    """Refuse a transaction that etcd would refuse for its shape, before it is sent."""
    for name, part in (("compare", compare), ("then", then), ("otherwise", otherwise)):
        if len(part) > MAX_TXN_OPS:
            raise ValueError(f"{name} has {len(part)} operations; a transaction takes at most {MAX_TXN_OPS}")
    size = sum(_size(part) for part in (*compare, *then, *otherwise))
    if size > MAX_TXN_BYTES:
        raise ValueError(f"the transaction has about {size} bytes; at most {MAX_TXN_BYTES} are allowed")
    for ops in (then, otherwise):
        _check_each_key_changes_once(ops)


def _size(part: Compare | Op) -> int:
    match part:
        case Put(key=key, value=value):
            return len(key.encode()) + len(value) + _OP_OVERHEAD_BYTES
        case DeletePrefix(prefix=prefix):
            return 2 * len(prefix.encode()) + _OP_OVERHEAD_BYTES
        case _:
            return len(part.key.encode()) + _OP_OVERHEAD_BYTES


def _check_each_key_changes_once(ops: Sequence[Op]) -> None:
    puts: set[str] = set()
    for op in ops:
        key = op.prefix if isinstance(op, DeletePrefix) else op.key
        if not key:
            raise ValueError("an operation names no key")
        if isinstance(op, Put):
            if key in puts:
                raise ValueError(f"the transaction puts {key!r} twice")
            puts.add(key)
    deleted = {op.key for op in ops if isinstance(op, Delete)} & puts
    prefixes = [op.prefix for op in ops if isinstance(op, DeletePrefix)]
    deleted.update(key for key in puts if key.startswith(tuple(prefixes)) and prefixes)
    if deleted:
        raise ValueError(f"the transaction puts and deletes {min(deleted)!r}")
