"""A generator learns to draw handwritten digits, because a critic learns to tell its drawings from real ones.

    python examples/gan.py

Goodfellow et al. 2014, with the non-saturating loss.
Result with the defaults (150 epochs): squared distance from a drawing to the nearest real digit 2.17; from one real digit to
the next 1.65.
"""

import argparse

from digits import load

import core
import core.nn as nn
import core.nn.functional as F
from core.utils.data import DataLoader


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--noise", type=int, default=16, help="numbers that a drawing is made of")
    args = parser.parse_args()

    core.manual_seed(0)
    train, test = load("digits", rank=0)
    generator = nn.Sequential(
        nn.Linear(args.noise, 128), nn.BatchNorm1d(128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.BatchNorm1d(128), nn.LeakyReLU(0.2),
        nn.Linear(128, 64), nn.Sigmoid(),
    )  # fmt: skip
    critic = nn.Sequential(
        nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
    )
    optimizers = [core.optim.Adam(m.parameters(), lr=1e-3, betas=(0.5, 0.999)) for m in (generator, critic)]

    def verdict(images, real):
        """How far the critic is from saying that these are real, or drawn."""
        logits = critic(images)
        return F.binary_cross_entropy_with_logits(logits, core.full_like(logits, float(real)))

    for _ in range(args.epochs):
        for images, _ in DataLoader(train, batch_size=64, shuffle=True, drop_last=True):
            drawn = generator(core.randn(64, args.noise))
            optimizers[1].zero_grad()
            (verdict(images.flatten(1), True) + verdict(drawn.detach(), False)).backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            verdict(drawn, True).backward()
            optimizers[0].step()

    generator.eval()
    with core.no_grad():
        drawn = generator(core.randn(500, args.noise))
        real = test.tensors[0].flatten(1)
        nearest = ((drawn[:, None] - real[None]) ** 2).sum(-1).min(1).values.mean().item()
        between = ((real[:, None] - real[None]) ** 2).sum(-1)
        between = (between + 1e9 * core.eye(len(real))).min(1).values.mean().item()
    shades = " .:-=+*#%@"
    for row in range(8):
        print("   ".join("".join(2 * shades[min(9, int(10 * v))] for v in d[8 * row : 8 * row + 8]) for d in drawn[:4].tolist()))
    print(f"squared distance from a drawing to the nearest real digit {nearest:.2f}; from one real digit to the next {between:.2f}")


if __name__ == "__main__":
    main()
