"""Teach another owner's language model to sort letters: low-rank adapters (LoRA) by Hugging Face's PEFT.

The model's files are an encrypted input of theirs, and are unpacked into memory only. What leaves is the adapter, a
hundredth of the model; the model itself does not.
"""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
import torch.distributed as dist
from peft import LoraConfig, TaskType, get_peft_model
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from strongroom.workload import room

EPOCHS = 2
dist.init_process_group()
device = "cuda" if torch.cuda.is_available() else "cpu"

torch.manual_seed(0)
place = room.open("language-model").unpack()
tokenizer = AutoTokenizer.from_pretrained(place)
base = AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)
settings = LoraConfig(
    task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["query", "value"]
)
model = DistributedDataParallel(get_peft_model(base, settings).to(device))

letters = room.dataset("letters")
sampler = DistributedSampler(letters, seed=0)
batches = DataLoader(letters, batch_size=16, sampler=sampler)
optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=2e-3)


def read(batch):
    words = tokenizer(list(batch["text"]), padding=True, truncation=True, max_length=32, return_tensors="pt")
    return {name: values.to(device) for name, values in words.items()}


for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    for batch in batches:
        optimizer.zero_grad()
        model(**read(batch), labels=batch["urgent"].to(device)).loss.backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    right = [(model(**read(batch)).logits.argmax(1).cpu() == batch["urgent"]) for batch in batches]
accuracy = float(torch.cat(right).float().mean())
if room.rank == 0:
    learned = {
        name: weights for name, weights in model.module.state_dict().items() if "lora_" in name or "classifier" in name
    }
    room.save(learned, "adapter", card={"accuracy": accuracy, "device": device, "weights": len(learned)})
