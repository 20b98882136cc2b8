"""Benchmarks of the engine against PyTorch: `python -m tests.bench train|infer|ops|memory|startup`. Not collected by pytest.

rows       what is measured: one body for both engines
child      one row on one engine, in a process of its own
rank       one process of a distributed job on one engine;  distributed: `python -m tests.bench.distributed`, ours and the peer's in turn
__main__   runs the two in turn, several times, and prints a Markdown table
"""
