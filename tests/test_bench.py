"""scripts/bench.py: what it measures, prints and writes."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, long

sys.path.insert(0, str(ROOT / "scripts"))
from benchmark.memory import memory_of_one
from benchmark.speed import print_speed
from benchmark.timing import OtherProcess, time_alternately
from benchmark.workloads import reference_training

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_measured_for_frames_of_other_sizes(recompute):
    peak, seconds = memory_of_one((3, 1, 12, recompute), CPU)
    assert peak >= 0
    assert seconds > 0


def test_a_workload_that_runs_out_of_memory_does_not_stop_the_others(capsys):
    tried = []

    def too_large():
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    spent = time_alternately({"reference": too_large, "ours": lambda: None}, 3, CPU)
    assert len(tried) == 1 and 0 < spent["ours"] < 1
    result = print_speed("a row", {name: 30 / value for name, value in spent.items()}, 1)
    assert result["reference"] == 0 and "ratio" not in result and result["share_of_matmul"] > 0
    printed = capsys.readouterr()
    assert "OOM" in printed.out and "CUDA out of memory" in printed.err


@no_gpu
def test_a_plain_loop_that_failed_ends_the_bench():
    with (
        pytest.raises(SystemExit, match="plain loop's process ended"),
        OtherProcess(reference_training, "not a number", 3, False, CPU),
    ):
        pass


@no_gpu
def test_a_missing_gpu_is_an_error():
    command = [sys.executable, ROOT / "scripts/bench.py", "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "finds no CUDA GPU" in done.stderr


def bench(folder, flags):
    """-> what it writes, and what it prints."""
    command = [sys.executable, ROOT / "scripts/bench.py", "--device", "cpu", *flags.split()]
    command += ["--out", folder / "b.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "b.json").read_text()), done.stdout


@long
def test_the_published_statistics_are_timed_in_both_labs(tmp_path):
    numbers, printed = bench(tmp_path, "--exact --batches 2 --rounds 1 --length 3")
    for name in ("pose, batch 2, tfr 0", "robot, batch 2, tfr 1"):
        result = numbers[name]
        assert result["ratio"] == pytest.approx(result["ours"] / result["reference"])
        assert f"{result['ratio']:.2f}x" in printed


@long
def test_the_table_is_printed_and_written(tmp_path):
    """The smallest run, with nets of the default sizes."""
    flags = "--batches 1 --rounds 1 --length 3 --frames 3 --pictures 3"
    numbers, printed = bench(tmp_path, flags)
    result = numbers["train, float32, batch 1, tfr 0"]
    assert result["ratio"] == pytest.approx(result["ours"] / result["reference"])
    assert f"{result['ratio']:.2f}x" in printed
    used = result["ours"] * 22e9  # operations per second
    peak = numbers["peaks float32"]["tflops"] * 1e12
    assert result["share_of_matmul"] == pytest.approx(used / peak)
    assert 0 < numbers["epoch"]["our loading's share"] < 1
