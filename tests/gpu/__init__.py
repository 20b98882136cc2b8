"""What a GPU needs to be held against: its kernels compiled and emulated without one (`compiling`, `shim`), everything else with one
(`python -m tests.gpu`)."""
