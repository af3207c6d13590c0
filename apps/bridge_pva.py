#!/usr/bin/env python3
"""A bridge to EPICS PVAccess: fields of records are PVs, some can be put; and PVs of others are written to records.

Sources: EPICS V4, "Normative Types Specification" (NTScalar, NTScalarArray); p4p 4.

    bridge_pva.py 'BATTERY__*'                       fields are PVs: BATTERY__measures:voltage
    bridge_pva.py -n usv1 GPS__position              of a namespace: usv1:GPS__position:latitude
    bridge_pva.py --write MOTOR__command             MOTOR__command:speed can be put
    bridge_pva.py --pvs pvs.json                     PVs are monitored: {"RING__beam": {"current": "SR:CURRENT"}}

Out: each field is an NTScalar (float: double, int: long, bool, str: string; arrays: NTScalarArray, in C order; lists,
objects and others: string with JSON). timeStamp is the record's ts; display has unit, limits and meaning, valueAlarm
the limits, control those beyond which a value is refused. The alarm is MAJOR out of limits, and INVALID when the record
is older than its max_age, gone, never written, or the server of the shared memory is away.

In: a put is checked against the description and answered when the record is written, else with the reason; the other
fields stay. Only --write allows puts. A monitored PV gives one field its value, and the record its timeStamp, where
that is later than what the PV gave before. What does not fit, and what has an INVALID alarm, is refused, logged and
counted. One that is gone is told of, and taken up again; a record that nobody writes becomes stale by its max_age.

The network is set by EPICS_PVAS_INTF_ADDR_LIST, EPICS_PVAS_SERVER_PORT, EPICS_PVA_ADDR_LIST, EPICS_PVA_NAME_SERVERS and
so on. PVAccess knows no passwords: whoever reaches this program may put what --write allows.
"""
import json
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from shareddata.bridge import Bridge
from shareddata.datadesc import Field, Record
from shareddata.errors import SharedDataError
from shareddata.handler import Handler, needs, program
from shareddata.outgoing import Update, selected
from shareddata.table import clean, dumps

log = logging.getLogger("shareddata")

NAME = "{namespace}:{record}:{field}"
CODES = {"float": "d", "int": "l", "bool": "?", "str": "s"}
ARRAYS = {
    "|b1": "a?", "|i1": "ab", "|u1": "aB", "<i2": "ah", "<u2": "aH", "<i4": "ai", "<u4": "aI", "<i8": "al", "<u8": "aL",
    "<f2": "af", "<f4": "af", "<f8": "ad",
}
LARGEST = (1 << 63) - 1
NONE, MAJOR, INVALID = 0, 2, 3
DEVICE, RECORD, UNDEFINED = 1, 3, 6  # what an alarm's status says of where it comes from


def name_of(template: str, namespace: str, record: str, field: str) -> str:
    """Return a PV's name; a part that the namespace leaves empty is left out.

    >>> name_of(NAME, "usv1", "GPS__position", "latitude"), name_of(NAME, "", "GPS__position", "latitude")
    ('usv1:GPS__position:latitude', 'GPS__position:latitude')
    """
    words = {"{namespace}": namespace, "{record}": record, "{field}": field}
    parts = template.split(":")
    for word, value in words.items():
        parts = [part.replace(word, value) for part in parts]
    return ":".join(part for part in parts if part)


def code_of(field: Field) -> str | None:
    """Return the type of a field's PV, None where PVAccess has none: arrays of complex numbers."""
    return ARRAYS.get(field.dtype) if field.dtype else CODES.get(field.type, "s")


def outward(field: Field, value: Any) -> Any:
    """Return a field's value as its PV has it.

    Raises:
        OverflowError: an integer of more than 64 bits.
    """
    if field.dtype:
        return value.reshape(-1).astype("<f4") if field.dtype == "<f2" else value.reshape(-1)
    if field.type == "int" and not -LARGEST - 1 <= value <= LARGEST:
        raise OverflowError(f"{value} has more than 64 bits")
    return value if field.type in CODES else dumps(value)


def inward(field: Field, value: Any) -> Any:
    """Return what a PV holds as a field's value.

    Raises:
        ValueError: it is none.
    """
    if hasattr(value, "get") and value.get("choices") is not None:  # NTEnum
        index = value.get("index")
        return value.get("choices")[index] if field.type == "str" else index
    if field.dtype:
        return value.reshape(field.shape) if hasattr(value, "reshape") else value
    if field.type in CODES:
        return value
    return json.loads(value) if isinstance(value, str) else value.tolist() if hasattr(value, "tolist") else value


def stamp(ts: float) -> dict[str, int]:
    """Return a time as PVs have it, from which the same float can be made again; what is no time is 0."""
    seconds = math.floor(ts) if abs(ts) < 1 << 62 else 0
    nanoseconds = round((ts - seconds) * 1e9) if abs(ts) < 1 << 62 else 0
    return {"secondsPastEpoch": seconds + nanoseconds // 10**9, "nanoseconds": nanoseconds % 10**9}


def alarm_of(field: Field, value: Any, update: Update) -> dict[str, Any]:
    """Return the alarm of a field."""
    if update.stale:
        return {"severity": INVALID, "status": DEVICE, "message": "stale"}
    limited = field.min is not None or field.max is not None
    if limited and field.outside(value):
        message = "LOLO" if field.min is not None and value < field.min else "HIHI"
        return {"severity": MAJOR, "status": RECORD, "message": message}
    return {"severity": NONE, "status": NONE, "message": ""}


def about(field: Field, code: str) -> dict[str, Any]:
    """Return what a PV tells of its field: unit, meaning, limits."""
    found: dict[str, Any] = {"display": {"units": field.unit, "description": field.doc}}
    if code in "dl" and (field.min is not None or field.max is not None):
        given = {"Low": field.min, "High": field.max}
        limits = {name: _limit(code, name, each) for name, each in given.items() if each is not None}
        found["display"] |= {f"limit{name}": limit for name, limit in limits.items()}
        found["valueAlarm"] = {"active": True}
        for name, limit in limits.items():
            found["valueAlarm"] |= {f"{name.lower()}AlarmLimit": limit, f"{name.lower()}AlarmSeverity": MAJOR}
        if field.on_limit == "refuse":
            found["control"] = {f"limit{name}": limit for name, limit in limits.items()}
    return found


def _limit(code: str, name: str, limit: float) -> float:
    """Return a limit as a PV of that type can have it."""
    if code == "d":
        return float(limit)
    return min(max(math.ceil(limit) if name == "Low" else math.floor(limit), -LARGEST - 1), LARGEST)


class Served:
    """The PVs of one record.

    Args:
        record: its description.
        name: gives the name of a field's PV.
        put: takes a field and a p4p operation; None where nothing may be put.
    """

    def __init__(self, record: Record, name: Callable[[str], str], put: Callable[[Field, Any], None] | None) -> None:
        from p4p.nt import NTScalar
        from p4p.server.thread import SharedPV

        self.record, self.pvs, self._types = record, {}, {}
        for field in record.fields[2:]:
            code = code_of(field)
            if code is None:
                log.warning("record %s, field %s: PVAccess has no %s", record.name, field.name, field.type_text())
                continue
            kind = NTScalar.buildType(code, display=True, control=True, valueAlarm=True)
            empty = {"alarm": {"severity": INVALID, "status": UNDEFINED, "message": "never written"}}
            initial = {**about(field, code), **empty}
            with suppress(OverflowError):
                initial |= {} if field.dtype else {"value": outward(field, field.default)}
            pv = SharedPV(initial=NTScalar.Value(kind, initial))
            if put:
                pv.put(partial(self._put, put, field))
            self.pvs[field.name], self._types[field.name] = pv, (name(field.name), kind)

    @property
    def named(self) -> dict[str, Any]:
        """The PVs by their names."""
        return {self._types[field][0]: pv for field, pv in self.pvs.items()}

    def post(self, update: Update) -> int:
        """Give the PVs their values; return how many have none that PVAccess could hold."""
        from p4p import Value

        failed = 0
        for field, value in zip(update.record.fields[2:], update.trame[2:]):
            if field.name not in self.pvs:
                continue
            content = {"timeStamp": stamp(update.trame.ts), "alarm": alarm_of(field, value, update)}
            try:
                content["value"] = outward(field, value)
            except OverflowError as error:
                failed += 1
                content["alarm"] = {"severity": INVALID, "status": RECORD, "message": str(error)[:80]}
            self.pvs[field.name].post(Value(self._types[field.name][1], content))
        return failed

    @staticmethod
    def _put(put: Callable[[Field, Any], None], field: Field, pv: Any, operation: Any) -> None:
        put(field, operation)


class Pvs:
    """All PVs that are served. PVs of records that are described later are added, those of others stay, INVALID."""

    def __init__(self, template: str, namespace: str, writable: list[str]) -> None:
        from p4p.server import StaticProvider

        self.bridge: Bridge | None = None
        self._template, self._namespace, self._writable = template, namespace, writable
        self._served: dict[str, Served] = {}
        self.provider = StaticProvider("shareddata")

    def serve(self, record: Record) -> Served:
        """Return the PVs of a record, made if they are not there or the record has other fields now."""
        found = self._served.get(record.name)
        if found is not None and found.record == record:
            return found
        for name in found.named if found else ():
            self.provider.remove(name)
        put = partial(self._put, record) if record.name in self._writable else None
        made = Served(record, partial(name_of, self._template, self._namespace, record.name), put)
        for name, pv in made.named.items():
            try:
                self.provider.add(name, pv)
            except RuntimeError as error:
                raise SharedDataError(f"record {record.name}: the PV {name}: {error}: correct --name") from None
        self._served[record.name] = made
        return made

    def send(self, update: Update) -> None:
        """Post a record's values."""
        assert self.bridge is not None
        if failed := self.serve(update.record).post(update):
            text = f"record {update.record.name}: {failed} integers of more than 64 bits"
            self.bridge.tally.complain("missed", update.record.name, text, failed)
        self.bridge.tally.add("sent")

    def _put(self, record: Record, field: Field, operation: Any) -> None:
        """Take what was put, in a thread of p4p; it is answered in the program's."""
        assert self.bridge is not None
        content = operation.value()
        origin = f"{operation.name()} from {operation.peer().rpartition(':')[0]}"  # not its port: told once a minute

        def reply(reason: str) -> None:
            operation.done(error=clean(reason) if reason else None)

        try:
            if not content.changed("value"):
                raise ValueError("only the value can be put")
            value = inward(field, content["value"])
        except (ValueError, RecursionError) as error:
            self.bridge.incoming.refuse(origin, str(error))
            reply(str(error))
            return
        self.bridge.incoming.put(record.name, {field.name: value}, None, origin, reply)


class Monitored:
    """A PV of somebody else's that gives a field its value."""

    def __init__(self, bridge: Bridge, record: Record, field: Field, name: str) -> None:
        self.connected = False
        self._bridge, self._record, self._field, self._name = bridge, record, field, name
        self._told_unit = False
        self.subscription: Any = None  # which ends with its last reference

    def take(self, found: Any) -> None:
        """Take a value, or that the PV is gone; in a thread of p4p."""
        if isinstance(found, Exception):
            if self.connected:
                log.warning("the PV %s is gone; going on, waiting for it", self._name)
            self.connected = False
            return
        if not self.connected:
            log.info("the PV %s is there", self._name)
        self.connected = True
        try:
            self._pass_on(found)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            self._bridge.incoming.refuse(self._name, f"{type(error).__name__}: {error}")

    def _pass_on(self, found: Any) -> None:
        if (found.get("alarm.severity") or 0) >= INVALID:
            raise ValueError(f"its alarm is INVALID: {found.get('alarm.message')}")
        units = found.get("display.units")
        if units and self._field.unit and units != self._field.unit and not self._told_unit:
            self._told_unit = True
            text = "the PV %s is in %s, record %s, field %s in %s: written as it is"
            log.warning(text, self._name, clean(units), self._record.name, self._field.name, self._field.unit)
        seconds = found.get("timeStamp.secondsPastEpoch") or 0
        ts = seconds + (found.get("timeStamp.nanoseconds") or 0) / 1e9
        values = {self._field.name: inward(self._field, found["value"])}
        self._bridge.incoming.put(self._record.name, values, ts if seconds else None, self._name, part=True)


def monitored(path: str) -> dict[str, dict[str, str]]:
    """Return which fields come from which PVs.

    Raises:
        SharedDataError: the file is not as it should be.
    """
    if not path:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SharedDataError(f"{path}: {error}") from None
    inner = found.values() if isinstance(found, Mapping) else [None]
    if not all(isinstance(each, Mapping) and all(isinstance(pv, str) and pv for pv in each.values()) for each in inner):
        raise SharedDataError(f'{path}: expected {{"RECORD": {{"field": "PV", ...}}, ...}}')
    return dict(found)


def watch(bridge: Bridge, handler: Handler, wanted: Mapping[str, Mapping[str, str]], context: Any) -> list[Monitored]:
    """Monitor PVs.

    Raises:
        SharedDataError: a record has no such field.
    """
    made = []
    for name, fields in wanted.items():
        record = handler.shm.describe(name)
        for field, pv in fields.items():
            if field not in [each.name for each in record.fields[2:]]:
                raise SharedDataError(f"record {name} has no field {field!r} for the PV {pv}")
            made.append(Monitored(bridge, record, record.field(field), pv))
            request = "record[queueSize=100]"
            made[-1].subscription = context.monitor(pv, made[-1].take, request=request, notify_disconnect=True)
    return made


@program(
    head=__doc__,
    do_debug="Show debugging information for the bridge",
    write="Records whose PVs can be put: A,B",
    pvs='JSON file with the PVs that are written to records: {"RECORD": {"field": "PV"}}',
    name="Names of the PVs of fields",
    mode="What goes out: every (each update of records with a history) or newest (at most as often as -f)",
    frequency="How often records are looked at that have no history, or of which only the newest goes out, in Hz",
    records="Records whose fields are PVs: names or globs ('BATTERY__*')",
)
def main(
    handler: Handler, write: str = "", pvs: str = "", name: str = NAME, mode: str = "every", frequency: float = 10.0,
    *records: str,
) -> None:
    """Serve fields of records as PVs, and write PVs to records. The program's head tells all of it."""
    needs("p4p", "pva")
    from p4p.client.thread import Context
    from p4p.server import Server

    if mode not in ("every", "newest"):
        handler.wrong_usage("the mode is every or newest")
    if "{record}" not in name or "{field}" not in name:
        handler.wrong_usage("the name of a PV holds {record} and {field}")
    wanted, writable = monitored(pvs), write.replace(",", " ").split()
    served = Pvs(name, handler.shm.namespace, writable)
    patterns = [*records, *writable]
    with Bridge(
        handler, patterns, ",".join([*writable, *wanted]), served.send, every=mode == "every", frequency=frequency,
        also_own=True, status="BRIDGE__pva",
    ) as bridge:  # fmt: skip
        served.bridge = bridge
        for each in selected(handler.shm.names(), patterns):
            served.serve(handler.shm.describe(each))
        with Server(providers=[served.provider]), Context("pva", nt=False) as context:
            sources = watch(bridge, handler, wanted, context)
            bridge.run(lambda: {"disconnected": sum(not each.connected for each in sources)})


if __name__ == "__main__":
    main()
