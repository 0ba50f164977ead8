"""What a device could do at best, for the utilisation that the log reports."""

from __future__ import annotations

import torch

# Dense tensor-core peaks of 16-bit types in operations a second, from the makers' data sheets; fp32 by TF32 is half.
_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "L40S": 362e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
}


def peak(device: torch.device, precision: str) -> float | None:
    """Peak operations a second of this device in this precision; None where it is not known, as on every CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    found = next((value for part, value in _PEAKS.items() if part in name), None)
    return found / 2 if found and precision == "fp32" else found


def memory(device: torch.device) -> int | None:
    """Most memory of the device that tensors have taken since the last call, in MB; None on a CPU."""
    if device.type != "cuda":
        return None
    taken = torch.cuda.max_memory_allocated(device) // 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return taken
