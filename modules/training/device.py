"""Which device a run computes on."""

import ctypes
import functools
import os
from collections.abc import Callable
from typing import TypeVar

import torch

from ..config import Compute
from ..errors import UserError
from ..process.ranks import ranks

S = TypeVar("S", bound=Compute)
MANY_SHAPES = 256  # of what compiled nets are fed, one compilation per input shape
MANY_PRIMITIVES = "8192"  # convolutions of one shape, ready to run; oneDNN forgets all but 1024
M_TRIM_THRESHOLD, M_MMAP_MAX, MADV_HUGEPAGE, HUGE_PAGE = -1, -4, 14, 2**21  # of Linux


def default_device() -> str:
    """A GPU, if available."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_device(settings: Compute) -> torch.device:
    """--device -> torch.device, and a printed line. It must exist."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    name = settings.device or default_device()
    if ranks.count > 1 and name != "cpu":
        if name != "cuda":
            raise UserError(f"--device {name}: processes of torchrun need --device cuda or cpu")
        name = f"cuda:{ranks.local}"
    if name.startswith("cuda") and not cuda:
        raise UserError(
            f"--device {name}: torch finds no CUDA GPU; use --device cpu or leave it out"
        )
    if name.startswith("cuda") and (torch.device(name).index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: there are only {torch.cuda.device_count()} GPUs, counted from 0"
        )
    if name == "mps" and not mps:
        raise UserError("--device mps: this PyTorch has no MPS support; use --device cpu")
    device = torch.device(name)
    if device.index is not None:  # what names no GPU means this one
        torch.cuda.set_device(device)
    if settings.deterministic:
        only_deterministic_operations()
    if device.type == "cpu":
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", MANY_PRIMITIVES)
        keep_memory()
    detail = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    each = f"; {ranks.count} processes" if ranks.count > 1 else ""
    print(f"device: {name} ({detail}, {choose_precision(settings.precision, device)}{each})")
    return device


def with_precision(settings: S, device: torch.device) -> S:
    """Settings whose precision is what the device computes with: auto is resolved."""
    return settings.replace(precision=choose_precision(settings.precision, device))


def only_deterministic_operations() -> None:
    """--deterministic: an operation without a deterministic form raises an error."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before cuBLAS is first used
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads such memory
    torch.backends.cudnn.benchmark = False


def choose_precision(precision: str, device: torch.device) -> str:
    """auto -> bf16 where the device has instructions for it, else float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # a private name
    has_bf16 = device.type == "cpu" and known()
    return "bf16" if has_bf16 else "float32"


@functools.cache
def keep_memory() -> None:
    """Make the C library keep freed memory for the next training step, in huge pages.

    By default it returns all memory after every step and requests it again page by page, a tenth
    of the time. The reserved block takes no memory before it is used. Only Linux with glibc.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, TypeError, ValueError):
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if block := libc.malloc(size):
        start = -(-block // HUGE_PAGE) * HUGE_PAGE
        libc.madvise(start, size - HUGE_PAGE, MADV_HUGEPAGE)
        libc.free(block)


def compile_nets(model: torch.nn.Module, mode: str) -> None:
    """--compile: compile the model's large nets in one of torch's modes."""
    if mode == "off":
        return
    from torch._dynamo import config as dynamo  # slow to import
    from torch._inductor import list_mode_options

    if mode not in (modes := list_mode_options()):
        raise UserError(f"--compile must be off or one of {', '.join(modes)}, got {mode!r}")
    dynamo.cache_size_limit = MANY_SHAPES  # the nets share code, so they would share a limit of 8
    for name in model.LARGE_NETS:
        net = getattr(model, name)
        net.compile(mode=mode, dynamic=False)
        if modes[mode].get("triton.cudagraphs"):
            net._compiled_call_impl = with_lasting_outputs(net._compiled_call_impl)


def begin_step(mode: str) -> None:
    """A training step begins: CUDA graphs of --compile may overwrite what they returned before."""
    if mode != "off":
        torch.compiler.cudagraph_mark_step_begin()


def with_lasting_outputs(call: Callable) -> Callable:
    """A replay of a CUDA graph overwrites the outputs of the last: without gradient, return copies.

    With gradient, torch keeps all outputs until begin_step.
    """

    def wrapped(*inputs, **settings):
        if torch.is_grad_enabled():
            return call(*inputs, **settings)
        torch.compiler.cudagraph_mark_step_begin()
        outputs = call(*inputs, **settings)
        if isinstance(outputs, tuple):
            return tuple(x.clone() for x in outputs)
        return outputs.clone()

    return wrapped


def rng_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of every generator that training draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_rng_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore them; on a different type of device a run draws other numbers."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
