"""Every number has limits, and says them."""

import dataclasses
import json
import math

import pytest
from helpers import write_tested

from modules.config import TESTS, TRAINING
from modules.config.fields import Number, Numbers
from modules.report.groups import find_runs
from modules.report.pages import write_run_page

NUMBERS = {
    item.name: getattr(check, "each", check)
    for cls in (*TRAINING.values(), *TESTS.values())
    for item in dataclasses.fields(cls)
    if isinstance(check := item.metadata["check"], (Number, Numbers))
}


def test_every_number_has_an_upper_limit_and_the_error_states_it():
    for name, number in NUMBERS.items():
        assert number(str(number.high)) == number.high <= 2**32, name
        for value in (10**20, "1e308", math.nan, "x", ""):
            with pytest.raises(ValueError, match=f"at most {number.high}|must be a"):
                number(value)


# ---------------------------------------------------------------- numbers of a run folder


@pytest.mark.parametrize("text", ["\ufeffepoch,val/psnr\n0,20.5\n", "epoch,val/psnr,x\n0,20.5,\n"])
def test_a_table_with_a_mark_of_its_encoding_or_empty_cells_is_read(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text, "utf-8")
    (tmp_path / "args.json").write_text("\ufeff" + json.dumps({"lab": "pose"}), "utf-8")
    (run,) = find_runs([tmp_path])
    assert run.epochs[0]["epoch"] == 0 and run.epochs[0]["val/psnr"] == 20.5


@pytest.mark.parametrize("value", ["NaN", "null"])
def test_a_score_that_is_not_finite_is_a_dash_on_the_page(tmp_path, value):
    (tmp_path / "metrics.csv").write_text("epoch,val/psnr\n0,20.5\n")
    scores = f'{{"mean": {{"psnr": {value}}}, "clips": [{{"psnr": {value}}}]}}'
    write_tested(tmp_path, {"scores.json": scores})
    write_run_page(tmp_path)
    text = (tmp_path / "report.html").read_text().partition("<script")[0].lower()
    assert "test clip 0" in text and "nan" not in text
