"""Inside a job: the driver admits workers, keys arrive, inputs open, outputs are encrypted; the engines.

A program needs one name from here::

    from strongroom.workload import room

    late = room.sql("SELECT carrier, count(*) AS n FROM flights WHERE dep_delay > 15 GROUP BY carrier")
    room.write(late, "late")
"""

from strongroom.workload.inside import Room, room

__all__ = ["Room", "room"]
