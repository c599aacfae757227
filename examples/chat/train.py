"""Train the small language model of this example on a text, in about two seconds, and write its weights as JSON.

python train.py TEXT weights.json
"""

import json
import sys
from pathlib import Path

import numpy as np

WINDOW, HIDDEN, ROUNDS, STEP = 12, 64, 150, 0.02


def train(text, *, rounds=ROUNDS):
    """Return the weights of a network that guesses each character of ``text`` from the twelve before it."""
    letters = "".join(sorted({*text, " ", "\n"}))
    ids = np.array([letters.index(letter) for letter in " " * WINDOW + text])
    seen = np.lib.stride_tricks.sliding_window_view(ids, WINDOW)[:-1]
    target = ids[WINDOW:]
    read = np.eye(len(letters), dtype=np.float32)[seen].reshape(len(seen), -1)
    random = np.random.default_rng(7)
    shapes = {
        "inner": (read.shape[1], HIDDEN),
        "inner_bias": (HIDDEN,),
        "outer": (HIDDEN, len(letters)),
        "outer_bias": (len(letters),),
    }
    model = {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    mean = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    square = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for turn in range(1, rounds + 1):
        hidden = np.tanh(read @ model["inner"] + model["inner_bias"])
        scores = hidden @ model["outer"] + model["outer_bias"]
        error = np.exp(scores - scores.max(axis=1, keepdims=True))
        error /= error.sum(axis=1, keepdims=True)
        error[np.arange(len(target)), target] -= 1
        error /= len(target)
        back = (error @ model["outer"].T) * (1 - hidden**2)
        slope = {
            "inner": read.T @ back,
            "inner_bias": back.sum(axis=0),
            "outer": hidden.T @ error,
            "outer_bias": error.sum(axis=0),
        }
        for name, value in slope.items():  # Adam
            mean[name] = 0.9 * mean[name] + 0.1 * value
            square[name] = 0.999 * square[name] + 0.001 * value**2
            pace = np.sqrt(square[name] / (1 - 0.999**turn)) + 1e-8
            model[name] -= STEP * mean[name] / (1 - 0.9**turn) / pace
    rounded = {name: np.round(value.astype(float), 4).tolist() for name, value in model.items()}
    return {"letters": letters, "window": WINDOW, **rounded}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(train(Path(sys.argv[1]).read_text())))
