"""Which device a run computes on."""

import torch

from .options import UserError


def choose_device(args):
    """--device and --gpu -> torch.device, said in one line. What is asked for must be there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    name = "cpu" if args.gpu == 0 else args.device
    if name is None:
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if name.startswith("cuda") and not cuda:
        raise UserError(
            f"--device {name}: torch finds no CUDA GPU; use --device cpu or leave it out"
        )
    if name.startswith("cuda") and (torch.device(name).index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: there are only {torch.cuda.device_count()} GPUs, counted from 0"
        )
    if name == "mps" and not mps:
        raise UserError("--device mps: this torch does not offer it; use --device cpu")
    device = torch.device(name)
    args.precision = choose_precision(args.precision, device)
    detail = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    print(f"device: {name} ({detail}, {args.precision})")
    return device


def choose_precision(precision, device):
    """auto -> bf16 where the device has instructions for it, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    has_bf16 = (
        device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    )
    return "bf16" if has_bf16 else "float32"
