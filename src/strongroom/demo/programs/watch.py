"""A long run: the same statistics again and again. The airline withdraws its data while it runs."""

from strongroom.workload import room

for _ in range(200):
    late = room.sql(
        "SELECT count(*) AS n FROM flights f JOIN weather w USING (origin, month, day, hour) WHERE f.dep_delay > 15"
    )
    late.collect()
room.write(late, "late")
