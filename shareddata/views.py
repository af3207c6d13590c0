"""Records as they are now, for whoever shows them.

It knows how records are read so that one that cannot be read does not hide the others. It must not know terminals.
Invariant: what is there is shown, whatever is wrong with its neighbours.
"""

from collections.abc import Sequence

from shareddata.datadict import DataDict
from shareddata.errors import DecodeError
from shareddata.memory import SharedMemory
from shareddata.table import View


def snapshot(shm: SharedMemory, names: Sequence[str]) -> list[View]:
    """Return what is in records now; one that cannot be read does not hide the others.

    Raises:
        UnknownData: no such record.

    Redis: MULTI, HMGET for each record, EXEC; MULTI, XREVRANGE for each record, EXEC.
    """
    if not names:
        return []
    with DataDict("shareddata", shm) as dd:
        dd.set_datas_to_read(names)
        try:
            trames = dict(zip(names, dd.next()))
            received = shm.received(trames)
            return [View(shm.describe(name), trames[name], received=received[name]) for name in names]
        except DecodeError as error:
            if len(names) == 1:
                return [View(shm.describe(names[0]), damage=str(error))]
    return [view for name in names for view in snapshot(shm, [name])]
