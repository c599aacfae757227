"""Complete what is said to it, character by character, with a small network that reads the last characters.

A job of kind serve that chats: the endpoint calls ``chat`` for each request to /v1/chat/completions and sends each
piece as it comes.
"""

import json

import numpy as np


def load(files):
    """Read the weights that examples/chat/train.py wrote."""
    model = json.loads(files["weights.json"].read())
    return {name: np.array(value) if isinstance(value, list) else value for name, value in model.items()}


def chat(model, messages, settings):
    """Yield the most likely continuation of the last message, up to the end of its line."""
    letters, window, text = model["letters"], model["window"], messages[-1]["content"]
    for _ in range(settings["max_tokens"]):
        seen = [max(0, letters.find(letter)) for letter in text.rjust(window)[-window:]]
        rows = np.arange(window) * len(letters) + seen
        hidden = np.tanh(model["inner"][rows].sum(axis=0) + model["inner_bias"])
        letter = letters[int(np.argmax(hidden @ model["outer"] + model["outer_bias"]))]
        if letter == "\n":
            return
        text += letter
        yield letter
