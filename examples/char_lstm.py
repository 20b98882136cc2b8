"""An LSTM learns to write, one character after the other.

    python examples/char_lstm.py
    python examples/char_lstm.py --text shakespeare.txt --steps 1000

Without --text it reads the documentation that comes with Python itself.
Result with the defaults (300 steps, 2 layers of 128): validation loss 1.56 in 20 s on one core.
"""

import argparse

from char_gpt import batch, loss_of, read
from tqdm import tqdm

import core
import core.nn as nn


class Writer(nn.Module):
    """Characters (N, T) -> logits of the next ones (N, T, vocabulary)."""

    def __init__(self, vocabulary, width, layers):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        y, _ = self.lstm(self.token(tokens))
        return self.head(y)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a text file; default: Python's own documentation")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    core.manual_seed(0)
    data, characters = read(args.text)
    train, held_out = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    model = Writer(len(characters), 128, 2)
    optimizer = core.optim.Adam(model.parameters(), lr=5e-3)
    for _ in (bar := tqdm(range(args.steps), unit=" steps", mininterval=0.2)):
        optimizer.zero_grad()
        loss = loss_of(model, *batch(train, 32, 64))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)

    model.eval()
    with core.no_grad():
        validation = sum(loss_of(model, *batch(held_out, 32, 64)).item() for _ in range(20)) / 20
    print(f"validation loss {validation:.3f}")


if __name__ == "__main__":
    main()
