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


def test_a_plain_loop_that_failed_ends_the_bench():
    with (
        pytest.raises(SystemExit, match="plain loop's process ended"),
        OtherProcess(reference_training, "not a number", 3, False, CPU),
    ):
        pass


@long
@pytest.mark.parametrize(
    ("row", "flags"),
    [
        ("robot, batch 2, tfr 1", "--exact --batches 2"),
        ("train, float32, batch 1, tfr 0", "--batches 1 --frames 3 --pictures 3"),
    ],
)
def test_the_table_is_printed_and_written(tmp_path, row, flags):
    """The smallest runs, with nets of the default sizes."""
    words = [ROOT / "scripts/bench.py", "--device", "cpu", "--out", tmp_path / "b.json"]
    command = [sys.executable, *map(str, words), *flags.split(), "--rounds", "1", "--length", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "b.json").read_text())
    result = numbers[row]
    assert result["ratio"] == pytest.approx(result["ours"] / result["reference"])
    assert f"{result['ratio']:.2f}x" in done.stdout
    if "epoch" in numbers:
        peak = numbers["peaks float32"]["tflops"] * 1e12
        assert result["share_of_matmul"] == pytest.approx(result["ours"] * 22e9 / peak)
        assert 0 < numbers["epoch"]["our loading's share"] < 1
