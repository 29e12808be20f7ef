"""A checkpoint file -> plain data. No code of the file runs, and nothing is built unchecked.

`torch.load(weights_only=True)` does not suffice: it verifies no checksum, allocates as many bytes
as a call in the file asks for, accepts tensors whose values overlap, and hashes any key, which ends
the process if the key is nested deeply. So Python's unpickler is reduced to the operations and
names that torch writes, and a tensor is at first a description that must lie within its record.
"""

import contextlib
import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..text import visible

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # files of torch before 1.6 are no zip files
MAX_DEPTH, MAX_DIMS, CHUNK = 6, 8, 2**20
LONGEST_TEXT, LARGEST_INT = 10_000, 2**63
# Besides tensors a file takes less than 1 GB of memory. The index of 100,000 epochs is below this.
MOST_BYTES, MOST_VALUES, MOST_MARKS = 2**25, 4_000_000, 100  # of an index
TENSOR = 40  # a tensor takes as much memory as so many values
DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
}
# What else torch.load(weights_only=True) takes for data; nothing that is used here is made of it.
DATA_MODULES = {"torch", "torch._utils", "torch.storage", "collections", "_codecs"}
DATA_BUILTINS = {"set", "bytearray", "complex", "slice"}


class Refused(ValueError):
    """The file would need code to be run."""


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


class File(io.BufferedReader):
    """A file of which no large piece is read at once, whatever sizes are written in it."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MOST_BYTES:
            raise ValueError("its index is too large")
        return super().read(size)

    def readline(self, size: int = LONGEST_TEXT) -> bytes:
        return super().readline(size)


@contextlib.contextmanager
def reading(path: Path) -> Iterator["Reader"]:
    """What the index of a file says; its tensors are read when they are asked for."""
    with File(path) as file:
        if not zipfile.is_zipfile(file):
            yield Reader(*read_legacy(file))
            return
        with zipfile.ZipFile(file) as records:
            yield Reader(*read_zip(records, file.size))


def read_zip(file: zipfile.ZipFile, size: int) -> tuple[Any, Callable[[Storage], bytearray]]:
    """-> what the file's pickle says, and how to get the bytes of a storage."""
    records = {record.filename: record for record in file.infolist()}
    whole = sum(record.file_size for record in records.values())
    if len(records) != len(file.infolist()) or whole > size:
        raise ValueError("its index does not fit its size")
    found = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1 or records[found[0]].file_size > MOST_BYTES:
        raise ValueError("it has no data.pkl, or more than one, or a large one")
    prefix = found[0].removesuffix("data.pkl")
    order = records.get(f"{prefix}byteorder")
    if order and read_record(file, order) != sys.byteorder.encode():
        raise ValueError("it was written on a machine with another byte order")

    @cache
    def bytes_of(storage: Storage) -> bytearray:
        return read_record(file, records[f"{prefix}data/{storage.key}"])

    return Unpickler(io.BytesIO(read_record(file, records[found[0]]))).load(), bytes_of


def read_record(file: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytearray:
    """The bytes of a record, none of which is compressed. zipfile verifies the checksum."""
    is_folder = record.external_attr & 0x10
    if is_folder or record.compress_type or record.file_size != record.compress_size:
        raise ValueError(f"the record {visible(record.filename)} is damaged")
    data = bytearray(record.file_size)
    with file.open(record) as source, memoryview(data) as view:
        for start in range(0, len(data), CHUNK):
            piece = view[start : start + CHUNK]
            if source.readinto(piece) != len(piece):
                raise ValueError(f"the record {visible(record.filename)} is cut")
    return data


def read_legacy(file: File) -> tuple[Any, Callable[[Storage], bytearray]]:
    """The format before torch 1.6: five pickles, then the storages in the order of the fifth."""
    file.seek(0)
    if file.peek(1)[:1] != pickle.PROTO:
        raise ValueError("it is neither a zip file nor a pickle")
    if Unpickler(file).load() != LEGACY_MAGIC:
        raise ValueError("its first number is another one")
    _, info = Unpickler(file).load(), Unpickler(file).load()
    if not isinstance(info, dict) or not info.get("little_endian"):
        raise ValueError("it was written on a machine with another byte order")
    unpickler, data = Unpickler(file), {}
    content = unpickler.load()
    for key in Unpickler(file).load():
        storage, values = unpickler.storages[key], int.from_bytes(file.read(8), "little")
        if values != storage.values or values * storage.dtype.itemsize > file.size - file.tell():
            raise ValueError("a storage is of another size than its tensors")
        data[storage] = bytearray(values * storage.dtype.itemsize)
        file.readinto(data[storage])
    return content, data.__getitem__


# ---------------------------------------------------------------- the pickle


class Unpickler(pickle._Unpickler):
    """Reads dicts, lists, tuples, numbers, texts and Descriptions, and calls nothing else."""

    def __init__(self, file: Any):
        super().__init__(file)
        self.storages: dict[str, Storage] = {}
        self.left = MOST_VALUES

    def find_class(self, module: str, name: str) -> Any:
        builtin = module in ("__builtin__", "builtins") and name in DATA_BUILTINS
        if module not in DATA_MODULES and not builtin:
            raise Refused("loading it would run code")
        name = f"{module}.{name}"
        return FUNCTIONS.get(name) or DTYPES.get(name) or Opaque(name)

    def persistent_load(self, identity: Any) -> Any:
        _, dtype, key, _, values, *_ = identity
        if not isinstance(dtype, torch.dtype):
            return Opaque("a storage of another kind")
        if not isinstance(key, str) or not natural(values):
            raise ValueError("a storage has no name or no size")
        storage = Storage(key, dtype, values)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError("a storage has two kinds or sizes")
        return storage

    def load_build(self) -> None:
        """The attributes of a state dict are not used: versions of its modules."""
        self.stack.pop()

    def load_empty_dictionary(self) -> None:
        self.append(Dict())


OPERATIONS = """
    proto stop none true false binint binint1 binint2 long1 long4 binfloat binunicode
    short_binunicode binput long_binput binget long_binget mark empty_dictionary empty_list
    empty_tuple tuple tuple1 tuple2 tuple3 setitem setitems append appends global binpersid reduce
    build
""".split()


def operation(code: int) -> Callable[[Unpickler], None]:
    """What a byte of a pickle stands for."""
    name = getattr(pickle._Unpickler.dispatch.get(code), "__name__", "")
    known = name.removeprefix("load_") in OPERATIONS

    def run(self: Unpickler) -> None:
        self.left -= 1
        if not known or self.left < 0 or len(self.metastack) > MOST_MARKS:
            raise ValueError("its pickle is not that of a checkpoint, or too large")
        getattr(self, name)()

    return run


Unpickler.dispatch = {code: operation(code) for code in range(256)}


class Dict(dict):
    """A dict whose keys are texts or numbers: to hash others may end the process, or never end."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(key, (str, int, float, type(None))):
            raise ValueError("a key is neither a text nor a number")
        super().__setitem__(key, value)


class Opaque:
    """Something that torch would build and that no checkpoint of this package has."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, *_: Any) -> "Opaque":
        return self

    append = extend = __setitem__ = __call__


def described(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Description | Opaque:
    """A tensor whose values all lie in the storage, each at its own place."""
    if not isinstance(storage, Storage):
        return Opaque("tensor of another kind")
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


def natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_INT


FUNCTIONS = {  # what a checkpoint calls
    "collections.OrderedDict": lambda: Dict(),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_tensor_v2": described,
}


# ---------------------------------------------------------------- plain data


class Reader:
    """Turns what a file says into plain data, the parts that are used and no other."""

    def __init__(self, content: Any, bytes_of: Callable[[Storage], bytearray]):
        self.content, self.bytes_of, self.left = content, bytes_of, MOST_VALUES

    def plain(self, value: Any, name: str, depth: int = MAX_DEPTH) -> Any:
        """A copy: dicts with texts or numbers as keys, lists, tuples, tensors, texts, numbers."""
        self.left -= TENSOR if isinstance(value, Description) else 1
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
        return visible(value)
    if type(value) is int and abs(value) < LARGEST_INT:
        return value
    if value is None or type(value) in (bool, float):
        return value
    kind = f"a {value.name}" if isinstance(value, Opaque) else type(value).__name__
    raise ValueError(f"{name} is {kind}, or too large: not plain data")
