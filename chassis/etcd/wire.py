"""Between the values of chassis.kv and the messages of etcd."""

from typing import Final

from chassis.etcdpb import kv_pb2, rpc_pb2
from chassis.kv import Compare, Delete, DeletePrefix, Entry, Event, Get, Op, OpResult, Put

_RELATION: Final = {"equal": rpc_pb2.Compare.EQUAL, "greater": rpc_pb2.Compare.GREATER}


def prefix_end(prefix: str) -> bytes:
    """The first key after every key that begins with the prefix; the zero byte, etcd's word for "no end", for none."""
    kept = prefix.encode().rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def entry_from_wire(pair: kv_pb2.KeyValue) -> Entry:
    """A key as etcd tells it."""
    return Entry(
        key=pair.key.decode(),
        value=pair.value,
        create_revision=pair.create_revision,
        mod_revision=pair.mod_revision,
        version=pair.version,
        lease=pair.lease,
    )


def event_from_wire(event: kv_pb2.Event) -> Event:
    """A change as etcd tells it."""
    is_deletion = event.type == kv_pb2.Event.DELETE
    return Event(
        key=event.kv.key.decode(),
        entry=None if is_deletion else entry_from_wire(event.kv),
        revision=event.kv.mod_revision,
    )


def compare_to_wire(compare: Compare) -> rpc_pb2.Compare:
    """A condition as etcd takes it."""
    wire = rpc_pb2.Compare(result=_RELATION[compare.relation], key=compare.key.encode())
    if compare.field == "create_revision":
        wire.target, wire.create_revision = rpc_pb2.Compare.CREATE, compare.revision
    else:
        wire.target, wire.mod_revision = rpc_pb2.Compare.MOD, compare.revision
    return wire


def op_to_wire(op: Op) -> rpc_pb2.RequestOp:
    """An operation as etcd takes it."""
    match op:
        case Put():
            put = rpc_pb2.PutRequest(key=op.key.encode(), value=op.value, lease=op.lease or 0)
            return rpc_pb2.RequestOp(request_put=put)
        case Get():
            return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=op.key.encode()))
        case Delete():
            return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=op.key.encode()))
        case DeletePrefix():
            doomed = rpc_pb2.DeleteRangeRequest(key=op.prefix.encode(), range_end=prefix_end(op.prefix))
            return rpc_pb2.RequestOp(request_delete_range=doomed)


def result_from_wire(response: rpc_pb2.ResponseOp) -> OpResult:
    """An operation's answer as etcd gives it."""
    found = response.response_range.kvs
    return OpResult(entry=entry_from_wire(found[0]) if found else None, deleted=response.response_delete_range.deleted)
