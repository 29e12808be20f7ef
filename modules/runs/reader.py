"""A checkpoint file -> plain data. No code of the file runs, and nothing is built unchecked.

The file's pickle is read by the few operations that a checkpoint needs. A tensor is at first a
description: it must lie within its record of the file, and no two of its values at one place. So
what is read takes no more memory than the file is long.
"""

import math
import pickletools
import sys
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # files of torch before 1.6 are no zip files
MAX_DEPTH, MAX_DIMS, CHUNK = 6, 8, 2**20
LONGEST_TEXT, LARGEST_INT = 10_000, 2**63
DTYPES = {
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
}
# What else torch.load(weights_only=True) takes for data; nothing that is used here is made of it.
DATA_MODULES = {"torch", "torch._utils", "torch.storage", "collections", "_codecs"}
DATA_BUILTINS = {"set", "bytearray", "complex", "slice"}


class Refused(ValueError):
    """The file would need code to be run."""


class Global(NamedTuple):
    """A name that the pickle looks up; never imported."""

    name: str


class Opaque(NamedTuple):
    """Something that torch would build and that no checkpoint of this package has."""

    name: str


class Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    values: int


class Description(NamedTuple):
    """A dense tensor within its storage."""

    storage: Storage
    offset: int
    size: tuple
    stride: tuple


# ---------------------------------------------------------------- files


def read(path: Path) -> tuple[Any, Callable[[Storage], bytearray]]:
    """-> what the file's pickle says, and how to get the bytes of a storage."""
    return read_zip(path) if zipfile.is_zipfile(path) else read_legacy(path)


def read_zip(path: Path) -> tuple[Any, Callable[[Storage], bytearray]]:
    with zipfile.ZipFile(path) as file:
        records = {record.filename: record for record in file.infolist()}
        whole = sum(record.file_size for record in records.values())
        if len(records) != len(file.infolist()) or whole > path.stat().st_size:
            raise ValueError("its index does not fit its size")
        data = {name: read_record(file, record) for name, record in records.items()}
    (index,) = (name for name in data if name.count("/") == 1 and name.endswith("/data.pkl"))
    prefix = index.removesuffix("data.pkl")
    if data.get(f"{prefix}byteorder", sys.byteorder.encode()) != sys.byteorder.encode():
        raise ValueError("it was written on a machine with another byte order")

    def bytes_of(storage: Storage) -> bytearray:
        return data[f"{prefix}data/{storage.key}"]

    return unpickle(BytesIO(data[index])), bytes_of


def read_record(file: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytearray:
    """The bytes of a record. A wrong bit is an error: torch checks no checksums, and zipfile
    accepts a record that its index truncates or calls a folder."""
    if record.external_attr & 0x10 or record.file_size != record.compress_size:
        raise ValueError(f"the record {shown(record.filename)} is damaged")  # none is compressed
    data = bytearray(record.file_size)
    view, done = memoryview(data), 0
    with file.open(record) as source:
        while piece := source.read(CHUNK):
            view[done : done + len(piece)] = piece
            done += len(piece)
    if done != record.file_size or zlib.crc32(data) != record.CRC:
        raise ValueError(f"the checksum of {shown(record.filename)} is wrong")
    return data


def read_legacy(path: Path) -> tuple[Any, Callable[[Storage], bytearray]]:
    """The format before torch 1.6: five pickles, then the storages in the order of the fifth."""
    file, storages = BytesIO(path.read_bytes()), {}
    if unpickle(file) != LEGACY_MAGIC:
        raise ValueError("its first number is another one")
    _, info, content = unpickle(file), unpickle(file), unpickle(file, storages)
    if not isinstance(info, dict) or not info.get("little_endian"):
        raise ValueError("it was written on a machine with another byte order")
    data = {}
    for key in unpickle(file):
        if not isinstance(key, str):
            raise ValueError("the name of a storage is no text")
        values = int.from_bytes(file.read(8), "little")
        if values != storages[key].values:
            raise ValueError("a storage is of another size than its tensors")
        data[key] = bytearray(file.read(values * storages[key].dtype.itemsize))
    return content, lambda storage: data[storage.key]


# ---------------------------------------------------------------- the pickle


CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NUMBERS_AND_TEXT = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE",
    "SHORT_BINUNICODE",
}  # fmt: skip
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def unpickle(file: BytesIO, storages: dict[str, Storage] | None = None) -> Any:
    """The next pickle of a file: dicts, lists, tuples, numbers, texts and Descriptions."""
    stack, marks, memo = [], [], {}
    storages = {} if storages is None else storages

    def since_mark() -> list:
        values, stack[:] = stack[marks[-1] :], stack[: marks.pop()]
        return values

    for code, argument, _ in pickletools.genops(file):
        name = code.name
        if name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in NUMBERS_AND_TEXT:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in TUPLES:
            stack[-TUPLES[name] :] = [tuple(stack[-TUPLES[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in ("SETITEM", "SETITEMS"):
            values = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            set_items(stack[-1], values)
        elif name in ("APPEND", "APPENDS"):
            values = since_mark() if name == "APPENDS" else [stack.pop()]
            append(stack[-1], values)
        elif name == "GLOBAL":
            stack.append(known(argument))
        elif name == "BINPERSID":
            stack[-1] = storage_of(stack[-1], storages)
        elif name == "REDUCE":
            stack[-2:] = [built(*stack[-2:])]
        elif name == "BUILD":  # the attributes of a state dict: versions of its modules
            stack.pop()
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"its pickle has a {name}")
    return stack.pop()


def set_items(target: Any, values: list) -> None:
    for key, value in zip(values[::2], values[1::2], strict=True):
        if isinstance(target, dict):
            if not isinstance(key, (str, int, float, type(None))):  # to hash others may never end
                raise ValueError("a key is neither a text nor a number")
            target[key] = value
        elif not isinstance(target, Opaque):
            raise ValueError("its pickle sets an item of what has none")


def append(target: Any, values: list) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Opaque):
        raise ValueError("its pickle appends to what is no list")


def known(name: str) -> Global:
    module, _, attribute = name.partition(" ")
    builtin = module in ("__builtin__", "builtins") and attribute in DATA_BUILTINS
    if module not in DATA_MODULES and not builtin:
        raise Refused("loading it would run code")
    return Global(name)


def storage_of(identity: Any, storages: dict[str, Storage]) -> Storage | Opaque:
    _, kind, key, _, values, *_ = identity
    if not isinstance(kind, Global) or kind.name not in DTYPES:
        return Opaque("a storage of another kind")
    if not isinstance(key, str) or not natural(values):
        raise ValueError("a storage has no name or no size")
    storage = Storage(key, DTYPES[kind.name], values)
    if storages.setdefault(key, storage) != storage:
        raise ValueError("a storage has two kinds or sizes")
    return storage


def built(function: Any, arguments: Any) -> Any:
    """What a call in the pickle would return, for the three that make checkpoints."""
    if isinstance(function, Opaque):
        return function
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        raise ValueError("its pickle calls what is no function")
    if function.name == "collections OrderedDict" and not arguments:
        return {}
    if function.name == "torch._utils _rebuild_parameter":
        return arguments[0]
    if function.name == "torch._utils _rebuild_tensor_v2" and isinstance(arguments[0], Storage):
        return described(*arguments[:4])
    return Opaque(function.name.replace(" ", "."))


def natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_INT


def described(storage: Storage, offset: Any, size: Any, stride: Any) -> Description:
    """A tensor whose values all lie in the storage, each at its own place."""
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)):
        raise ValueError("a tensor has no shape")
    if len(size) > MAX_DIMS or not all(map(natural, (offset, *size, *stride))):
        raise ValueError(f"a tensor has more than {MAX_DIMS} dimensions, or a negative one")
    end = 0 if 0 in size else 1
    for step, count in sorted(zip(stride, size)) if end else ():
        if count > 1 and step < end:
            raise ValueError("a tensor's values overlap")
        end += (count - 1) * step
    if offset + end > storage.values:
        raise ValueError("a tensor is larger than its part of the file")
    return Description(storage, offset, size, stride)


# ---------------------------------------------------------------- plain data


class Builder:
    """Turns what `read` returned into plain data, the parts that are used and no other."""

    def __init__(self, path: Path):
        self.content, self.bytes_of = read(path)
        self.left = path.stat().st_size + 1000  # values: a small file may repeat some for ever

    def plain(self, value: Any, name: str, depth: int = MAX_DEPTH) -> Any:
        """A copy: dicts with texts or numbers as keys, lists, tuples, tensors, texts, numbers."""
        self.left -= 1
        if not depth or self.left < 0:
            raise ValueError(f"{name} is nested too deeply, or repeats itself")
        if isinstance(value, Description):
            return self.tensor(value)
        if isinstance(value, dict):
            names = {key: checked(key, name) for key in value}
            return {k: self.plain(value[key], f"{name}.{k}", depth - 1) for key, k in names.items()}
        if type(value) in (list, tuple):
            return type(value)(self.plain(x, name, depth - 1) for x in value)
        return checked(value, name)

    def tensor(self, value: Description) -> torch.Tensor:
        """The tensor itself: it shares the bytes that were read."""
        storage, data = value.storage, self.bytes_of(value.storage)
        if len(data) != storage.values * storage.dtype.itemsize:
            raise ValueError("a storage is of another size than its record")
        if not data:
            return torch.empty(value.size, dtype=storage.dtype)
        values = torch.frombuffer(data, dtype=storage.dtype)
        return values.as_strided(value.size, value.stride, value.offset)


def checked(value: Any, name: str) -> Any:
    """A number, a text or None. Of a text what a terminal would obey is replaced."""
    if isinstance(value, str) and len(value) <= LONGEST_TEXT:
        return shown(value)
    if type(value) is int and abs(value) < LARGEST_INT:
        return value
    if value is None or type(value) in (bool, float):
        return value
    kind = f"a {value.name}" if isinstance(value, Opaque) else type(value).__name__
    raise ValueError(f"{name} is {kind}, or too large: not plain data")


def shown(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def finite_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
