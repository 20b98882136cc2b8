"""torch.backends.cuda: switches of GPU kernels, which can be set and read."""

from types import SimpleNamespace as _Switches

matmul = _Switches(allow_tf32=False, allow_fp16_reduced_precision_reduction=True, allow_bf16_reduced_precision_reduction=True)
_attention = {"flash": False, "mem_efficient": False, "math": True}


def _kernel(name: str) -> None:
    """The pair enable_NAME_sdp, NAME_sdp_enabled: torch's kernels of attention; ours chooses by itself."""

    def enable(enabled: bool) -> None:
        _attention[name] = enabled

    def enabled() -> bool:
        return _attention[name]

    globals()[f"enable_{name}_sdp"], globals()[f"{name}_sdp_enabled"] = enable, enabled


for _name in _attention:
    _kernel(_name)
