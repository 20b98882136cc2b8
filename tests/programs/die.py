"""Adds numbers up over the ranks for ever. Says its process number first, so that a test can kill one.

    die.py FOLDER
"""

import os
import sys
from pathlib import Path

import core
import ddp


def main():
    ddp.init_process_group(timeout=60)
    here = Path(sys.argv[1])
    for step in range(10**9):
        ddp.all_reduce(core.ones(1000))
        if step == 20:  # everybody is in the middle of it
            partial = here / f"{ddp.get_rank()}.partial"
            partial.write_text(str(os.getpid()))
            partial.rename(here / f"{ddp.get_rank()}.pid")


if __name__ == "__main__":
    main()
