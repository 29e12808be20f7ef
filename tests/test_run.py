"""A run from end to end: train, resume, test."""

from conftest import SHORT


def test_train_then_test(call, dataset, tmp_path):
    run = tmp_path / "run"
    done = call("Trainer", "--DR", dataset, "--save_root", run, "--num_epoch", 2, *SHORT)
    assert done.code == 0, done.err
    names = {p.name for p in run.iterdir()}
    assert {"args.json", "metrics.csv", "last.ckpt", "best_score.ckpt", "epoch=0.ckpt"} <= names
    assert {"val.gif", "val_strip.png", "val_frames.csv", "plots"} <= names
    done = call("Tester", "--DR", dataset, "--save_root", run, "--ckpt", run / "best_score.ckpt")
    assert done.code == 0, done.err
    names = {p.name for p in run.iterdir()}
    assert {"pred_seq0.gif", "pred_seq1.gif", "submission.csv", "scores.json"} <= names
