"""Learn to read digits that two owners hold, on as many workers as the job has; gradients cross the job's own mesh.

Nothing here is Strongroom's but ``room``: the same lines run under torchrun. A worker that is lost is replaced, and the
training goes on at the last checkpoint.
"""

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset

from strongroom.workload import room

EPOCHS = 4

dist.init_process_group()
torch.manual_seed(0)
digits = ConcatDataset([room.dataset(name) for name in ("letters", "cheques")])
learn = Subset(digits, [index for index in range(len(digits)) if index % 5])
check = Subset(digits, range(room.rank * 5, len(digits), 5 * room.size))
sampler = DistributedSampler(learn, seed=0)
batches = DataLoader(learn, batch_size=64, sampler=sampler)

model = DistributedDataParallel(nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
loss = nn.CrossEntropyLoss()

done = 0
if kept := room.checkpoint.load():
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    done = kept["epochs"]
for epoch in range(done, EPOCHS):
    sampler.set_epoch(epoch)
    for batch in batches:
        optimizer.zero_grad()
        loss(model(batch["pixels"].float() / 255), batch["digit"]).backward()
        optimizer.step()
    if room.rank == 0:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
        room.checkpoint.save(state, step=epoch + 1)

right = torch.zeros(2)
with torch.no_grad():
    for batch in DataLoader(check, batch_size=256):
        found = model.module(batch["pixels"].float() / 255).argmax(1)
        right += torch.tensor([float((found == batch["digit"]).sum()), float(len(found))])
dist.all_reduce(right)
accuracy = float(right[0] / right[1])
if room.rank == 0:
    room.write(pa.table({"digits": [int(right[1])], "accuracy": [accuracy]}), "quality")
    room.save(model, "model", card={"accuracy": accuracy, "epochs": EPOCHS})
