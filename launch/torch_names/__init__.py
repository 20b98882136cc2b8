"""A folder for PYTHONPATH: in processes that a program starts, `import torch` finds Lockstep, too.

`launch.as_torch` puts it there, for torch.multiprocessing.spawn, workers, and scripts that start scripts. What lies
here is only found by such a process; it turns `launch.as_torch` on and makes way.
"""
