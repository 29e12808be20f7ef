"""The recipes and demos in scripts/*.sh: what they hand to Python."""

import pytest
from helpers import ROOT

from modules.cli.parser import parse

RECIPES = ["train_best", "train_public_best", "train_template", "test_checkpoint"]
DEMOS = {  # and their datasets
    "demo": "toy",
    "lamps_demo": "lamps",
    "robot_demo": "toy_robot",
    "digits_demo": "digits",
}


def settings_of(script, calls):
    """[(Trainer or Tester, its settings), ...] of the calls."""
    robot = script.startswith(("robot", "digits"))
    lab = "robot" if robot else "pose"  # Tester asks the checkpoint
    names = ["Tester" if path == str(ROOT / "Tester.py") else "Trainer" for path, *_ in calls]
    return [(name, parse(name, words, lab)[0]) for name, (_, *words) in zip(names, calls)]


@pytest.mark.parametrize("script", [*RECIPES, *DEMOS])
def test_paths_count_from_the_users_folder_and_values_keep_their_spaces(
    script, shell, tmp_path, monkeypatch
):
    place = tmp_path / "my work"
    (place / "my data").mkdir(parents=True)
    monkeypatch.chdir(place)
    data = {"DATA" if script in DEMOS else "DR": "my data"}
    calls = shell(script, "my runs/one", "--cache_dir", "a b", cwd=place, **data)
    for name, settings in settings_of(script, calls):
        assert settings.DR == "my data"
        assert settings.save_root in ("my runs/one", "my runs/one/twin")
        assert name == "Trainer" or settings.ckpt_path.startswith("my runs/one/")
        assert settings.cache_dir == (None if script in DEMOS and name == "Tester" else "a b")


@pytest.mark.parametrize("script", [*RECIPES[:-1], *DEMOS])
def test_the_defaults_are_in_the_repository(script, shell, tmp_path):
    calls = shell(script, cwd=tmp_path)
    if script in DEMOS and not (data := ROOT / "data" / DEMOS[script]).exists():
        drawing = calls.pop(0)
        assert drawing[:2] == [str(ROOT / "scripts/make_toy_data.py"), str(data)]
    assert calls
    for _, one in settings_of(script, calls):
        assert one.save_root.startswith(f"{ROOT}/runs/")
        assert one.DR == str(data if script in DEMOS else ROOT / "../dataset")
