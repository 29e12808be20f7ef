"""Hostile files: pickles and zip files that torch would not write, for tests/hostile.py."""

import contextlib
import io
import pickle
import struct
import zipfile

import torch

# ---------------------------------------------------------------- the paths of values


def paths_of(value, path=(), depth=5):
    """The paths of all values in nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else ()
    for key, part in enumerate(value) if isinstance(value, list) else items:
        yield (*path, key)
        if depth > 1:
            yield from paths_of(part, (*path, key), depth - 1)


def some_path(state, rng):
    """Each part of a checkpoint is as likely as any other, however many values it has."""
    part = rng.choice(sorted(state))
    below = [path for path in paths_of(state) if path[0] == part]
    if part == "optimizer" and rng.random() < 0.7:
        below = [path for path in below if len(path) == 4]
    return rng.choice(below)


def inside(state, path):
    for key in path[:-1]:
        state = state[key]
    return state


# ---------------------------------------------------------------- the pickle and the file


class Raw:
    """Operations of a pickle, written as they are."""

    def __init__(self, code):
        self.code = code


class Pickler(pickle._Pickler):
    """In Python, to write Raw operations."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_raw(self, value):
        self.write(value.code)

    dispatch[Raw] = save_raw


def short(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(number):
    data = pickle.encode_long(number)
    return b"\x8a" + bytes([len(data)]) + data


def lying_tensor(storage=10, offset=0, size=(10,), stride=(1,), key="0", kind="FloatStorage"):
    numbers = [b"(" + b"".join(map(integer, values)) + b"t" for values in (size, stride)]
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + short("storage") + f"ctorch\n{kind}\n".encode()
        + short(key) + short("cpu") + integer(storage) + b"tQ" + integer(offset) + numbers[0]
        + numbers[1] + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def bomb(call):
    return b"c" + call.encode() + integer(4 * 10**9) + b"\x85R"


BIG = 4 * 10**9
OPERATIONS = {
    "storage larger than its record": lambda: lying_tensor(BIG, 0, (BIG,)),
    "tensor larger than its storage": lambda: lying_tensor(10, 0, (BIG,)),
    "offset beyond the storage": lambda: lying_tensor(10, BIG),
    "negative offset": lambda: lying_tensor(10, -(10**6)),
    "negative stride": lambda: lying_tensor(10, 9, (10,), (-1,)),
    "sizes that overflow": lambda: lying_tensor(10, 0, (2**62, 2**62), (1, 1)),
    "more strides": lambda: lying_tensor(10, 0, (2,), (1, 1)),
    "another storage": lambda: lying_tensor(10, 0, (10,), (1,), "no such"),
    "a storage above": lambda: lying_tensor(10, 0, (10,), (1,), "../data.pkl"),
    "another kind": lambda: lying_tensor(10, 0, (10,), (1,), "0", "ComplexDoubleStorage"),
    "gigabytes of zeros": lambda: bomb("__builtin__\nbytearray\n"),
    "a tensor of gigabytes": lambda: bomb("torch\nTensor\n"),
    "a storage of gigabytes": lambda: bomb("torch\nFloatStorage\n"),
    "code": lambda: b"cposix\nsystem\n" + short("touch hit") + b"\x85R",
    "code by another name": lambda: b"cbuiltins\neval\n" + short("1") + b"\x85R",
    "a large memo": lambda: b"Nr\xff\xff\xff\xfe",
    "a deep key": lambda: b"})" + b"\x85" * 200_000 + b"Ns",
    "a deep value": lambda: b")" + b"\x85" * 200_000,
    "a list in itself": lambda: b"]q\x01h\x01a",
    "a long number": lambda: b"\x8b" + struct.pack("<i", 10**5) + b"\x7f" * 10**5,
    "a number as text": lambda: b"I" + b"9" * 10**5 + b"\n",
    "attributes": lambda: b"ccollections\nOrderedDict\n)R}" + short("items") + b"K\x01sb",
    "attributes of a class": lambda: b"ccollections\nOrderedDict\n}" + short("a") + b"K\x01sb",
    "an empty stack": lambda: b"0" * 50,
    "an unknown operation": lambda: b"\xff",
    "no mark": lambda: b"u",
    "stop": lambda: b".",
}
MANY = 3_900_000
LARGE = {  # little in the file, much in memory
    "lists": lambda: b"](" + b"]" * MANY + b"e",
    "dicts": lambda: b"](" + b"}" * MANY + b"e",
    "tuples": lambda: b"](" + b")\x85" * (MANY // 2) + b"e",
    "texts": lambda: b"](" + b"\x8c\x02ab" * MANY + b"e",
    "a wide text": lambda: b"X" + struct.pack("<I", 30_000_004) + b"a" * 30_000_000 + WIDE,
    "marks": lambda: b"(" * MANY,
    "a larger index": lambda: b"](" + b"N" * 50_000_000 + b"e",
    "one tensor": lambda: b"](" + lying_tensor(key="z") + b"q\xff" + b"h\xff" * MANY + b"e",
    "tensors": lambda: (
        b"](" + lying_tensor(key="z")[:-1] + b"q\xffR" + RECALLED * (MANY // 4) + b"e"
    ),
    "one dict": lambda: b"](}K\x01K\x01sq\xff" + b"h\xff" * (MANY // 2) + b"e",
}
WIDE, RECALLED = "\U0001f600".encode(), b"ctorch._utils\n_rebuild_tensor_v2\nh\xffR"


def write(path, state, rng, operations=None):
    """A checkpoint file as torch writes it, with some operations in the place of a value."""
    if operations is None:
        torch.save(state, path)
        return
    target = some_path(state, rng)
    file = io.BytesIO()
    torch.save(state, file)
    storages, numbers = {}, {}

    class Stored(Pickler):
        def persistent_id(self, value):
            if isinstance(value, torch.storage.TypedStorage):
                key = numbers.setdefault(value.data_ptr(), str(len(numbers)))
                storages[key] = value
                return ("storage", type_of(value), key, "cpu", value.size())
            return None

    holder = inside(state, target)
    holder[target[-1]] = Raw(operations)
    index = io.BytesIO()
    Stored(index, 2).dump(state)
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("x/data.pkl", index.getvalue())
        for key, storage in storages.items():
            out.writestr(
                f"x/data/{key}",
                torch.tensor([], dtype=torch.uint8).set_(storage.untyped()).numpy().tobytes(),
            )
        out.writestr("x/data/z", bytes(40))  # what LARGE refers to
        out.writestr("x/version", "3\n")


def type_of(storage):
    return getattr(torch, storage.pickle_storage_type())


def raw_pickle(path, state, rng):
    of = LARGE if rng.random() < 0.1 else OPERATIONS
    name = rng.choice(sorted(of))
    write(path, state, rng, of[name]())
    return name


def records_of(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewrite(path, records, how=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in records:
            file.writestr(name, data)


def raw_file(path, state, rng):
    torch.save(state, path)
    records = list(records_of(path).items())
    index = next(name for name, _ in records if name.endswith("data.pkl"))
    zeros = [(name, bytes(3 * 10**8)) for name, _ in records if "/data/" in name][:9]
    ways = {
        "compressed": lambda: rewrite(path, records, zipfile.ZIP_DEFLATED),
        "gigabytes, compressed": lambda: rewrite(path, records + zeros[:1], zipfile.ZIP_DEFLATED),
        "two of a name": lambda: rewrite(path, records + records[:3]),
        "two indices": lambda: rewrite(path, [*records, ("y/data.pkl", b"N.")]),
        "no index": lambda: rewrite(path, [r for r in records if r[0] != index]),
        "records that are shorter": lambda: rewrite(path, [(n, d[:-4] or d) for n, d in records]),
        "another byte order": lambda: rewrite(
            path, [(n, b"big" if n.endswith("byteorder") else d) for n, d in records]
        ),
        "legacy": lambda: torch.save(state, path, _use_new_zipfile_serialization=False),
        "lzma": lambda: rewrite(path, records, zipfile.ZIP_LZMA),
        "many records": lambda: rewrite(path, records + [(f"x/{i}", b"") for i in range(50_000)]),
        "names": lambda: rewrite(path, [*records, ("\x1b[31m\n", b""), ("../../x", b"1")]),
        "another index of records": lambda: patch_records(path, rng),
        "a flipped bit": lambda: flip(path, rng, 1),
        "many flipped bits": lambda: flip(path, rng, 300),
        "cut": lambda: path.write_bytes(path.read_bytes()[: rng.randrange(5000)]),
        "legacy, flipped": lambda: (
            torch.save(state, path, _use_new_zipfile_serialization=False), flip(path, rng, 3),
        ),
        "legacy, cut": lambda: (
            torch.save(state, path, _use_new_zipfile_serialization=False),
            path.write_bytes(path.read_bytes()[: -rng.randrange(1, 3000)]),
        ),
    }  # fmt: skip
    way = rng.choice(sorted(ways))
    with contextlib.suppress(UserWarning):
        ways[way]()
    return way


def patch_records(path, rng):
    """Method, checksum, sizes or place of some records, as the index at the end states them."""
    data = bytearray(path.read_bytes())
    places = [i for i in range(len(data)) if data.startswith(b"PK\x01\x02", i)]
    for place in rng.sample(places, 3):
        at = place + rng.choice([10, 16, 20, 24, 42])
        data[at : at + 2] = rng.choice([b"\0\0", b"\x0e\0", b"\xff\xff", b"\x10\x27"])
    path.write_bytes(data)


def flip(path, rng, times):
    data = bytearray(path.read_bytes())
    for _ in range(times):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
