"""A small GPT learns to write, one character after the other: the same file on one process or many.

    python examples/char_gpt.py                              one process
    ddprun -n 2 examples/char_gpt.py                         two processes over ZeroMQ
    python examples/char_gpt.py --text shakespeare.txt --steps 2000 --block 64 --width 128 --layers 4 --heads 4 --batch-size 12

Without --text it reads the documentation that comes with Python itself (460,000 characters). The batch size is that of all
processes together.
Result with the defaults (300 steps, 3 layers of width 96): validation loss 2.21 in 20 s on one core.
"""

import argparse
import math

from tqdm import tqdm

import core
import core.nn as nn
import core.nn.functional as F
import ddp


class Block(nn.Module):
    """Attention over what came before, then a perceptron for each position; both added to what they read."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (N, heads, T, width/heads)
        x = x + self.out(y.transpose(1, 2).reshape(n, t, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Characters (N, T) -> logits of the next ones (N, T, vocabulary)."""

    def __init__(self, vocabulary, block, width, layers, heads):
        super().__init__()
        self.block = block
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(block, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for name, p in self.named_parameters():
            if p.dim() > 1:  # what is added to the stream starts smaller, the more layers add to it
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, tokens):
        x = self.token(tokens) + self.position(core.arange(tokens.size(1), device=tokens.device))
        return self.head(self.norm(self.blocks(x)))

    @core.no_grad()
    def write(self, tokens, n):
        """The tokens (1, T) and n more, drawn from the model."""
        for _ in range(n):
            logits = self(tokens[:, -self.block :])[:, -1]
            tokens = core.cat([tokens, core.multinomial(F.softmax(logits, -1), 1)], dim=1)
        return tokens


def read(path):
    """The text as a tensor of character numbers, and the characters."""
    if path:
        text = open(path, encoding="utf-8").read()
    else:
        from pydoc_data.topics import topics

        text = "\n".join(topics[k] for k in sorted(topics))
    characters = sorted(set(text))
    number = {c: i for i, c in enumerate(characters)}
    return core.tensor([number[c] for c in text]), characters


def batch(data, n, block):
    """n random pieces (n, block) and the same one character later."""
    starts = core.randint(len(data) - block, (n,))
    pieces = core.stack([data[i : i + block + 1] for i in starts.tolist()])
    return pieces[:, :-1], pieces[:, 1:]


def loss_of(model, x, y):
    logits = model(x)
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", help="a text file; default: Python's own documentation")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16, help="of all processes together")
    parser.add_argument("--block", type=int, default=64, help="characters that the model sees")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()

    ddp.init_process_group()
    rank, size = ddp.get_rank(), ddp.get_world_size()
    core.manual_seed(0)
    data, characters = read(args.text)
    train, held_out = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    model = ddp.DistributedDataParallel(GPT(len(characters), args.block, args.width, args.layers, args.heads))
    optimizer = core.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.1)
    warm = max(1, args.steps // 20)
    schedule = core.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1, (s + 1) / warm) * (0.55 + 0.45 * math.cos(math.pi * s / args.steps))
    )

    core.manual_seed(1 + rank)  # each rank its own pieces
    with tqdm(total=args.steps, unit=" steps", disable=rank > 0, mininterval=0.2) as bar:
        for _ in range(args.steps):
            optimizer.zero_grad()
            loss = loss_of(model, *batch(train, args.batch_size // size, args.block))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)

    core.manual_seed(0)
    model.eval()
    with core.no_grad():
        validation = sum(loss_of(model.module, *batch(held_out, 16, args.block)).item() for _ in range(20)) / 20
    if rank == 0:
        print(f"validation loss {validation:.3f}")
        start = core.tensor([[characters.index("\n")]])
        print("".join(characters[i] for i in model.module.write(start, 200)[0].tolist()))
    ddp.destroy_process_group()


if __name__ == "__main__":
    main()
