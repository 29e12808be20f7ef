"""Every number has limits, and says them; a run that cannot be read is left out."""

import dataclasses
import json
import math

import pytest

from modules.config import TESTS, TRAINING
from modules.errors import UserError
from modules.fields import Number, Numbers
from modules.report.groups import find_runs
from modules.report.pages import write_run_page

NUMBERS = {
    (cls.__name__, item.name): getattr(check, "each", check)
    for cls in (*TRAINING.values(), *TESTS.values())
    for item in dataclasses.fields(cls)
    if isinstance(check := item.metadata["check"], (Number, Numbers))
}
HUGE = [10**20, 10**400, -(10**400), 10**5000, 1e308, math.inf, math.nan, "1e308", "9" * 400]
HUGE += ["9" * 5000, "-" + "9" * 20, "1\n2", "nan", "", "1" * 10**5 + "x"]


@pytest.mark.parametrize(("cls", "name"), NUMBERS, ids="-".join)
def test_every_number_has_an_upper_limit_and_the_error_says_it(cls, name):
    number = NUMBERS[cls, name]
    assert number.high <= 2**32
    for value in HUGE:
        with pytest.raises(ValueError) as error:
            number(value)
        text = str(error.value)
        assert len(text) < 150 and len(text.splitlines()) == 1
        assert f"at most {number.high}" in text or "must be a" in text
    assert number(number.high) == number(str(number.high)) == number.high


@pytest.mark.parametrize("value", ["9" * 20, "9" * 400, "9" * 5000, "1e308", "1\n2", "x" * 9999])
@pytest.mark.parametrize("flag", ["--num_epoch", "--lr", "--lr_milestones", "--frame_H", "--seed"])
def test_a_number_out_of_range_is_one_line(call, flag, value, fault):
    done = call("Trainer", "--DR", "x", "--save_root", "y", flag, value)
    assert done.code == 2 and len(done.err.splitlines()) == 1 and len(done.err) < 300
    assert f"{flag}: must be a" in done.err
    fault(
        "numbers of 20 to 9999 digits, 1e308, no numbers", "exit code 2, one line with the limits"
    )


# ---------------------------------------------------------------- runs that cannot be read

METRICS = "epoch,val/psnr\n0,20.5\n"
DAMAGE = {
    "metrics.csv": [
        "epoch,val/psnr\n,1\n", "a,b\n1,2\n", "epoch\n1,2,3\n", "epoch\nx\n", "epoch\n\xff\x00\n",
    ],
    "scores.json": [
        "[]", "1", '{"mean": 3}', '{"mean": {}, "clips": 3}', '{"mean": {"psnr": "x"}}',
        '{"mean": {"psnr": 1e300}}', "[" * 10**5, '{"clips": [null]}', "", '[["a", 1]]',
    ],
    "args.json": ["[]", "null", '{"lab": []}', '{"loss": {}}', "{" * 10**5, "{\x00}"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(k, x) for k, texts in DAMAGE.items() for x in texts])
def test_a_run_that_cannot_be_read_is_named_and_left_out(tmp_path, capsys, name, text, fault):
    for run in ("good", "bad"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "metrics.csv").write_text(METRICS)
    (tmp_path / "bad" / name).write_text(text, "latin-1")
    assert [run.folder.name for run in find_runs([tmp_path])] == ["good"]
    out = capsys.readouterr().out
    assert out.startswith("left out: ") and "bad" in out and out.count("\n") == 1
    with pytest.raises(UserError):
        find_runs([tmp_path / "bad"])
    fault(
        "a damaged `metrics.csv`, `scores.json` or `args.json` in a comparison",
        "named and left out",
    )


@pytest.mark.parametrize("text", ["\ufeffepoch,val/psnr\n0,20.5\n", "epoch,val/psnr,x\n0,20.5,\n"])
def test_a_table_with_a_mark_of_its_encoding_or_empty_cells_is_read(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text, "utf-8")
    (tmp_path / "args.json").write_text("\ufeff" + json.dumps({"lab": "pose"}), "utf-8")
    (run,) = find_runs([tmp_path])
    assert run.epochs[0]["epoch"] == 0 and run.epochs[0]["val/psnr"] == 20.5


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null"])
def test_a_score_that_is_not_finite_is_a_dash_on_the_page(tmp_path, value):
    (tmp_path / "metrics.csv").write_text(METRICS)
    scores = f'{{"mean": {{"psnr": {value}}}, "clips": [{{"psnr": {value}}}]}}'
    (tmp_path / "scores.json").write_text(scores)
    write_run_page(tmp_path)
    assert "nan" not in (tmp_path / "report.html").read_text().partition("<script")[0].lower()
