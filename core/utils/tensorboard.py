"""torch.utils.tensorboard: SummaryWriter, which writes event files by the tensorboard package."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import numpy as np

from core._tensor import Tensor
from core.errors import MissingLibraryError

__all__ = ["SummaryWriter"]


def _number(value: Any) -> float:
    return float(value.item() if isinstance(value, Tensor) else value)


class SummaryWriter:
    """Writes scalars, histograms, images and text for TensorBoard into `log_dir`, by default runs/DATE_HOST."""

    def __init__(
        self,
        log_dir: str | None = None,
        comment: str = "",
        purge_step: Any = None,
        max_queue: int = 10,
        flush_secs: int = 120,
        filename_suffix: str = "",
    ):
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise MissingLibraryError(
                "SummaryWriter needs the library tensorboard, which is not installed; pip install tensorboard"
            ) from None
        self.log_dir = log_dir or os.path.join("runs", time.strftime("%b%d_%H-%M-%S_") + socket.gethostname() + comment)
        self._summary = Summary
        self._writer = EventFileWriter(self.log_dir, max_queue, flush_secs, filename_suffix)

    def _add(self, step: Any, walltime: Any, **value: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(
            wall_time=time.time() if walltime is None else walltime,
            summary=self._summary(value=[self._summary.Value(**value)]),
        )
        if step is not None:
            event.step = int(step)
        self._writer.add_event(event)

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None, walltime: Any = None, **_: Any) -> None:
        """One number."""
        self._add(global_step, walltime, tag=tag, simple_value=_number(scalar_value))

    def add_scalars(
        self, main_tag: str, tag_scalar_dict: dict[str, Any], global_step: Any = None, walltime: Any = None
    ) -> None:
        """Several numbers, under main_tag/name."""
        for name, value in tag_scalar_dict.items():
            self.add_scalar(f"{main_tag}/{name}", value, global_step, walltime)

    def add_histogram(
        self, tag: str, values: Any, global_step: Any = None, bins: Any = "auto", walltime: Any = None, **_: Any
    ) -> None:
        """How values are distributed."""
        from tensorboard.compat.proto.summary_pb2 import HistogramProto

        v = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64).reshape(-1)
        counts, edges = np.histogram(v, 64 if bins in ("auto", "tensorflow", "fd") else bins)
        histogram = HistogramProto(
            min=v.min(),
            max=v.max(),
            num=v.size,
            sum=v.sum(),
            sum_squares=(v * v).sum(),
            bucket_limit=edges[1:].tolist(),
            bucket=counts.tolist(),
        )
        self._add(global_step, walltime, tag=tag, histo=histogram)

    def add_image(
        self, tag: str, img_tensor: Any, global_step: Any = None, walltime: Any = None, dataformats: str = "CHW"
    ) -> None:
        """One picture, its dimensions in the order of `dataformats`; floats from 0 to 1, or uint8."""
        import io

        from PIL import Image

        a = np.asarray(img_tensor.detach().cpu() if isinstance(img_tensor, Tensor) else img_tensor)
        a = a if a.dtype == np.uint8 else (a * 255).clip(0, 255).astype(np.uint8)
        a = a.transpose([dataformats.index(c) for c in "HWC" if c in dataformats])
        a = a.squeeze(-1) if a.ndim == 3 and a.shape[-1] == 1 else a
        stream = io.BytesIO()
        Image.fromarray(a).save(stream, "PNG")
        picture = self._summary.Image(
            height=a.shape[0],
            width=a.shape[1],
            colorspace=3 if a.ndim == 3 else 1,
            encoded_image_string=stream.getvalue(),
        )
        self._add(global_step, walltime, tag=tag, image=picture)

    def add_text(self, tag: str, text_string: str, global_step: Any = None, walltime: Any = None) -> None:
        """A text, in Markdown."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._add(
            global_step,
            walltime,
            tag=f"{tag}/text_summary",
            tensor=text_pb(tag, text_string).value[0].tensor,
            metadata=text_pb(tag, text_string).value[0].metadata,
        )

    def flush(self) -> None:
        """Write what is waiting."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is waiting, and end."""
        self._writer.close()

    def __enter__(self) -> SummaryWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
