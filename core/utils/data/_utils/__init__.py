"""What the loader is made of: fetching, collating, the worker process, and the messages between processes."""

from core.utils.data._utils import collate, fetch, worker

__all__ = ["collate", "fetch", "worker"]
