"""`ddprun -n 4 -m ddp`: every rank says who it is and takes part in one all-reduce. The quickest check of an
installation.
"""

from __future__ import annotations

import sys

import core
import ddp


def main() -> None:
    """Join the job, add up the ranks, and say so."""
    ddp.init_process_group()
    world, total = ddp.get_world(), core.tensor([float(ddp.get_rank())])
    ddp.all_reduce(total)
    expected = world.size * (world.size - 1) / 2
    assert total.item() == expected, (
        f"rank {world.rank}: expected the ranks to add up to {expected}, got {total.item()}"
    )
    said = f"rank {world.rank} of {world.size}, over {ddp.get_backend()}, started by {world.launcher}: all ranks add up"
    sys.stdout.write(said + "\n")  # in one piece: some launchers mix those of the ranks
    ddp.destroy_process_group()


if __name__ == "__main__":
    main()
