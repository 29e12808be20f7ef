"""Hostile checkpoints: files made from a real one, with one or two of their parts replaced.

python tests/hostile.py --files 2000 --folder FOLDER

Each file is made from its number. Processes of their own read some hundred files each: as a
checkpoint, as a model, and as a run to resume or a checkpoint to test. A file passes if it is
used, or refused with one line. A signal, a traceback, or an allocation of more than 1 GB fails.
"""

import argparse
import collections
import contextlib
import copy
import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from helpers import ROBOT, SHORT, make_dataset, make_robot_data
from hostile_files import inside, raw_file, raw_pickle, some_path

from modules.cli.entry import run as run_script
from modules.errors import UserError
from modules.models import load_model
from modules.runs import checkpoint as ckpt
from modules.training import device

try:
    import resource
except ImportError:  # Windows: memory is not limited
    resource = None

MOST_MEMORY = 10**9
SIZES = {"pose": SHORT, "robot": ROBOT}
ENDLESS = [1]
for _ in range(40):
    ENDLESS = [ENDLESS, ENDLESS]  # 2**40 numbers in 40 lists
DEEP = ()
for _ in range(500):
    DEEP = (DEEP,)
NUMBERS = [
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**9, 10**18, 10**400, -(10**30), 0.5, 1e308, -0.0,
    float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
ODD = [
    *NUMBERS, "", "text", "8", "nan", "\x1b[31m\r\nred", "\udcff", "x" * 10**6, [], {}, [None],
    [1, "a"], {"a": 1}, {1: {2: {3: 4}}}, (1, 2), b"bytes", {1, 2}, 1j, torch.Size([2]),
    torch.device("cpu"), collections.Counter("aab"), DEEP, ENDLESS, [[[[[[[[1]]]]]]]],
]  # fmt: skip


# ---------------------------------------------------------------- tensors


def dense_tensors():
    nan = torch.full((4,), float("nan"))
    return [torch.zeros(()), torch.zeros(0), torch.ones(2), nan, torch.ones(3, dtype=torch.int64)]


def random_bytes(count):
    return torch.frombuffer(bytearray(random.randbytes(count)), dtype=torch.uint8)


TENSORS = {  # how a tensor is replaced
    "expanded": lambda x: torch.ones(1).expand(x.shape),
    "huge": lambda x: torch.ones(1).expand(10**6, 10**6),
    "huge of no values": lambda x: torch.ones(0, 10**9, 10**9),
    "transposed": lambda x: x.float().mT.contiguous().mT if x.dim() > 1 else x,
    "sliced": lambda x: torch.stack([x, x], -1)[..., 0],
    "overlapping": lambda x: torch.arange(x.numel() + 9.0).as_strided(x.shape, [1] * x.dim()),
    "another order": lambda x: x.permute(*range(x.dim())[::-1]).contiguous(),
    "sparse": lambda x: x.float().to_sparse() if x.dim() else x,
    "quantised": lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
    "complex": lambda x: x.to(torch.complex64),
    "bool": lambda x: x.bool(),
    "double": lambda x: x.double() * 1e300,
    "half": lambda x: x.half(),
    "integer": lambda x: x.to(torch.int64),
    "eight bits": lambda x: x.to(torch.float8_e5m2),
    "meta": lambda x: torch.empty(x.shape, device="meta"),
    "a parameter": lambda x: torch.nn.Parameter(x.float()),
    "nan": lambda x: torch.full_like(x, float("nan")) if x.is_floating_point() else x,
    "one inf": lambda x: torch.where(torch.arange(x.numel()).view(x.shape) == 0, torch.inf, x),
    "large": lambda x: torch.full_like(x, 3e38) if x.is_floating_point() else x,
    "negative": lambda x: -x.abs() - 1 if x.dtype != torch.uint8 else 255 - x,
    "flat": lambda x: x.reshape(-1),
    "shorter": lambda x: x.reshape(-1)[:-1],
    "more dimensions": lambda x: x[(None,) * 12],
    "random bytes": lambda x: (
        random_bytes(x.numel() * x.element_size()).view(x.dtype).view(x.shape)
    ),
    "another": lambda x: random.choice(dense_tensors()),
}


def replaced(tensor, way):
    """The tensor in another way, or as it is where it cannot be."""
    try:
        return TENSORS[way](tensor)
    except (RuntimeError, IndexError):
        return tensor


# ---------------------------------------------------------------- parts of the content


def replace_value(state, rng):
    path = some_path(state, rng)
    holder, key = inside(state, path), path[-1]
    if isinstance(holder[key], torch.Tensor) and rng.random() < 0.8:
        way = rng.choice(sorted(TENSORS))
        random.seed(rng.random())
        holder[key] = replaced(holder[key], way)
    else:
        way = rng.choice(ODD)
        holder[key] = way
    return f"{'.'.join(map(str, path))} = {repr(way)[:30] if way is not ENDLESS else 'endless'}"


def replace_moments(state, rng):
    """Of all weights alike: torch's fused step takes them together."""
    way = rng.choice(sorted(TENSORS))
    for moments in state["optimizer"]["state"].values():
        for name in moments:
            if name != "step" or rng.random() < 0.3:
                moments[name] = replaced(moments[name], way)
    return f"all moments {way}"


def replace_setting(state, rng):
    name, value = rng.choice(sorted(state["args"])), rng.choice(ODD)
    state["args"][name] = value
    return f"args.{name} = {'endless' if value is ENDLESS else repr(value)[:30]}"


def replace_number(state, rng):
    path = some_path({k: v for k, v in state.items() if k not in ("state_dict", "rng")}, rng)
    inside(state, path)[path[-1]] = value = rng.choice(NUMBERS)
    return f"{path} = {repr(value)[:30]}"


def change_keys(state, rng):
    path = some_path(state, rng)
    holder, key = inside(state, path), path[-1]
    odd = ["", "\x1b]0;x\x07", "a\nb", "epoch", 7, -1, None, "x" * 5000, "self", 2.5, "settings"]
    if isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice([1, 2, 50]))
        return f"{path} repeated"
    value = holder.pop(key) if rng.random() < 0.7 else holder[key]
    new = rng.choice([*odd, None])
    if new is not None:
        holder[new] = value
    return f"key {path} -> {new!r}"[:80]


def other_history(state, rng):
    rows = state["history"]
    ways = {
        "no columns": lambda: [{"epoch": row["epoch"]} for row in rows],
        "texts": lambda: [row | {"train/loss": "<b>x</b>"} for row in rows],
        "commas": lambda: [row | {"a,b\n,": 1} for row in rows],
        "large": lambda: [dict.fromkeys(row, 10**400) | {"epoch": row["epoch"]} for row in rows],
        "nan": lambda: [dict.fromkeys(row, float("nan")) | {"epoch": row["epoch"]} for row in rows],
        "bool": lambda: [row | {"epoch": bool(row["epoch"])} for row in rows],
        "many": lambda: [rows[0] | {"epoch": i} for i in range(3000)],
        "many columns": lambda: [row | {f"train/x{i}": i for i in range(3000)} for row in rows],
    }
    way = rng.choice(sorted(ways))
    state["history"] = ways[way]()
    if way == "many":
        state["last_epoch"] = rng.choice([3000, 1])
    return f"history {way}"


def other_version(state, rng):
    state["version"] = rng.choice([*NUMBERS, "2", 99, [2], ENDLESS])
    return "another version"


def published(state, rng):
    """The weights as published code saves them."""
    weights, nets = state["state_dict"], {}
    for name, tensor in weights.items():
        net, _, rest = name.partition(".")
        nets.setdefault(net, {})[rest] = tensor
    odd = {"\x1b[31m": 1, "a\nb": [], "lr": 0.1, "last_epoch": 3}
    return rng.choice([{"state_dict": weights} | odd, dict(weights), nets, nets | odd])


CONTENT = [replace_value, replace_moments, replace_setting, replace_setting, replace_number,
           change_keys, other_history, other_version]  # fmt: skip


def make(number, states, path):
    """File `number` -> its lab, and what is hostile in it."""
    rng = random.Random(number)
    lab = rng.choice(sorted(states))
    state = copy.deepcopy(states[lab])
    state["trackers"] = {"wandb_project": {"sent": 1, "id": "a1b2"}, "tensorboard": {"sent": 0}}
    if rng.random() < 0.1:
        state, how = published(state, rng), [replace_value]
    else:
        how = rng.sample(CONTENT, rng.choice([1, 1, 2]))
    kind = rng.random()
    if kind < 0.2:
        return lab, raw_pickle(path, state, rng)
    if kind < 0.3:
        return lab, raw_file(path, state, rng)
    done = []
    if rng.random() < 0.03:  # the checkpoint of another lab
        lab = next(name for name in states if name != lab)
    for change in how:
        with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
            done.append(change(state, rng))
    try:
        torch.save(state, path)
    except Exception:  # what torch cannot write is no file
        torch.save(states[lab], path)
        done.append("not written")
    return lab, "; ".join(done)


# ---------------------------------------------------------------- what reads the files


def bases(folder):
    """A data set and a short run of each lab, made once."""
    for lab, make_data in (("pose", make_dataset), ("robot", make_robot_data)):
        if not (folder / lab / "run/last.ckpt").exists():
            make_data(folder / lab / "data")
            assert script("Trainer", *flags(folder, lab), "--num_epoch", 1)[0] == 0
        yield lab, torch.load(folder / lab / "run/last.ckpt", weights_only=True)


def flags(folder, lab, run=None):
    places = ["--DR", folder / lab / "data", "--save_root", run or folder / lab / "run"]
    return [*places, *SIZES[lab], "--ema", 0.5, "--no-plots"]


def script(name, *words):
    """-> exit code, and what was printed; exceptions pass."""
    from conftest import MAINS

    err = io.StringIO()
    sys.argv = [f"{name}.py", *map(str, words)]
    code = 0
    with contextlib.redirect_stdout(err), contextlib.redirect_stderr(err):
        try:
            run_script(MAINS[name])
        except SystemExit as stop:
            code = stop.code or 0
            if isinstance(code, str):
                print(code)
                code = 1
    return code, err.getvalue()


def attempt(number, lab, path, folder):
    """Use the file in three ways -> how it ended: refused, or used."""
    ends = []
    for use in (ckpt.load, lambda x: load_model(x, "cpu", "float32")):
        try:
            use(path)
            ends.append("used")
        except UserError as error:
            assert_one_line(str(error), path)
            ends.append("refused")
    if ends == ["refused"] * 2 and number % 5:  # the scripts read it by the same functions
        return "refused"
    run = folder / f"at{number}"
    run.mkdir()
    try:
        if number % 2:
            shutil.copy(path, run / "last.ckpt")
            words = [*flags(folder, lab, run), "--num_epoch", 2]
            code, text = script("Trainer", *words)
        else:
            place = ["--DR", folder / lab / "data", "--save_root", run]
            words = [*place, "--ckpt_path", path, "--no-plots", "--device", "cpu"]
            code, text = script("Tester", *words)
        if code:
            errors = [line for line in text.splitlines() if "error: " in line]
            assert len(errors) == 1 and "Traceback" not in text, text[-800:]
            assert_one_line(errors[0], run / "last.ckpt" if number % 2 else path)
        elif not number % 2:
            text_of = (run / "scores.json").read_text()
            mean = json.loads(text_of, parse_constant=refuse_constant)["mean"]
            assert mean["psnr"] is not None or "not finite" in text, "NaN without a word"
        else:
            state = torch.load(run / "last.ckpt", weights_only=True)
            assert all(w.isfinite().all() for w in state["state_dict"].values())
        ends.append("refused" if code else "used")
    finally:
        shutil.rmtree(run)
    return " ".join(ends)


def assert_one_line(text, path):
    assert len(text.splitlines()) == 1 and text.isprintable() and len(text) < 1500, repr(text)


def refuse_constant(word):
    raise AssertionError(f"{word} in scores.json is no JSON")


def memory(name):
    """Bytes of this process; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def work(first, last, folder):
    """Read some files; a line of JSON for each."""
    torch.set_num_threads(1)
    states = dict(bases(folder))
    device.keep_memory = lambda: None  # it reserves memory for all that follows
    for number in range(first, last):
        path = folder / f"{number}.ckpt"
        lab, what = make(number, states, path)
        print(json.dumps({"number": number, "lab": lab, "what": what}), flush=True)
        if resource:
            most = memory("VmData") + MOST_MEMORY
            resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM: the most from now on
        before = memory("VmRSS")
        try:
            end = attempt(number, lab, path, folder)
        except BaseException as error:
            end = f"FAILED {type(error).__name__}: {str(error)[-600:]}"
        if resource:
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)
        print(json.dumps({"end": end, "memory": memory("VmHWM") - before}), flush=True)
        path.unlink()


def spread(folder, files, first=0, each=50):
    """Files from `first` on, `each` to a process -> a dict a file: number, what, end, memory."""
    list(bases(folder))
    done = []
    for start in range(first, first + files, each):
        last = min(start + each, first + files)
        while start < last:  # a process that died is followed by another
            words = [sys.executable, __file__, "--work", str(start), str(last), "--folder", folder]
            child = subprocess.run([*map(str, words)], capture_output=True, text=True)
            lines = [json.loads(x) for x in child.stdout.splitlines() if x.startswith("{")]
            if len(lines) % 2:
                lines.append({"end": f"FAILED exit code {child.returncode}", "memory": 0})
            if not lines:
                raise RuntimeError(child.stderr[-2000:])
            done += (more := [a | b for a, b in zip(lines[::2], lines[1::2])])
            with open(folder / "done.jsonl", "a") as log:
                log.writelines(json.dumps(one) + "\n" for one in more)
            start = done[-1]["number"] + 1
    return done


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--work", type=int, nargs=2)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.work:
        work(*args.work, args.folder)
        return
    done = spread(args.folder, args.files, args.first)
    ends = ["FAILED" if "FAILED" in one["end"] else one["end"] for one in done]
    for end, times in collections.Counter(ends).most_common():
        print(f"{times:6} {end}")
    print(f"most memory that one file took: {max(one['memory'] for one in done) / 1e6:.0f} MB")
    for one in done:
        if "FAILED" in one["end"]:
            print(one["number"], one["what"], one["end"], sep=" | ")


if __name__ == "__main__":
    main()
