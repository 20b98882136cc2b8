"""torch.utils.data: datasets, the order in which they are read, and the loader that makes batches of them, in
processes if wanted.

For the same seed the order of the samples, the seeds of the workers and the state of the default generator afterwards
are PyTorch's.
Not here: the sampler that gives each rank its share (`ddp.sampler`); data pipes.
"""

from core.utils.data.dataloader import DataLoader, default_collate, default_convert, get_worker_info
from core.utils.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from core.utils.data.sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

__all__ = [
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "IterableDataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "StackDataset",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "default_collate",
    "default_convert",
    "get_worker_info",
    "random_split",
]
