"""Train a network in one process on two owners' tables, and say how long it took and what it finds."""

import time

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from strongroom.workload import room

EPOCHS = 10
rows = []


def timed(name, work, number):
    begun = time.perf_counter()
    made = work()
    rows.append((name, time.perf_counter() - begun, float(number(made))))
    return made


def read():
    table = room.sql("""
        SELECT f.distance, f.hour, f.month, f.day, w.temp, w.wind_speed, w.precip, w.visib, w.pressure,
               CAST(f.dep_delay > 15 AS INTEGER) AS late
        FROM flights f
        JOIN weather w ON f.origin = w.origin AND f.month = w.month AND f.day = w.day AND f.hour = w.hour
        WHERE f.dep_delay IS NOT NULL AND w.temp IS NOT NULL AND w.wind_speed IS NOT NULL AND w.pressure IS NOT NULL
        ORDER BY ALL
    """)
    columns = [column.to_numpy() for column in table.columns]
    return torch.from_numpy(np.stack(columns, axis=1).astype("float32"))


def learn():
    """Learn by stochastic gradient descent, in batches of 1,024 rows."""
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(given.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(given)).split(1024):
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(network(given[batch])[:, 0], late[batch]).backward()
            optimizer.step()
    return network


def accuracy(network):
    with torch.no_grad():
        return ((network(given)[:, 0] > 0) == (late > 0)).double().mean()


torch.set_num_threads(1)
data = timed("read and join (PyTorch)", read, len)
given, late = data[:, :-1], data[:, -1]
given = (given - given.mean(0)) / given.std(0)
timed("PyTorch", learn, accuracy)
names, seconds, numbers = zip(*rows, strict=True)
room.write(pa.table({"name": names, "seconds": seconds, "number": numbers}), "trained")
