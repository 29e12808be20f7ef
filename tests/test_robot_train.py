# ---------------------------------------------------------------- training


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """No test changes it."""
    return make_robot_data(tmp_path_factory.mktemp("data") / "robot")


def train_in(call, data, folder, epochs=1, line=""):
    places = ["--DR", data, "--save_root", folder, "--niter", epochs]
    return call("Trainer", *places, *TINY, *shlex.split(line))


@pytest.fixture
def train(call, data, tmp_path):
    """train(folder, epochs, flags) -> the folder of a run that went well."""

    def run(name, epochs=1, line=""):
        done = train_in(call, data, tmp_path / name, epochs, line)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def make_loud(state, seed=0):
    """Weights large enough that frames, rows and z all show in what is predicted."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in state["state_dict"].items():
        if value.dim() > 1:
            fan_in = len(value) if name == "decoder.head.0.weight" else value[0].numel()
            value.normal_(0, 2 / fan_in**0.5, generator=generator)
    return state


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run of one epoch with a learned prior, and its checkpoint with loud weights."""
    base = tmp_path_factory.mktemp("trained")
    flags = ["--DR", str(data), "--save_root", str(base / "run"), "--niter", "1", *TINY]
    with pytest.MonkeyPatch.context() as patch:
        no_plots_in(patch)
        Trainer.train_or_validate(*parse("Trainer", [*flags, "--learned_prior"]))
    torch.save(make_loud(load(base / "run")), base / "loud.ckpt")
    return SimpleNamespace(best=base / "run/best_score.ckpt", loud=base / "loud.ckpt")


def read_clip(folder, length=EVAL):
    """Frames (T, 3, 64, 64) in 0..1 and rows (T, 7), read here."""
    images = [np.asarray(Image.open(folder / f"{t}.png")) for t in range(length)]
    frames = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255
    tables = [np.loadtxt(folder / name, delimiter=",") for name in (ACTIONS, POSITIONS)]
    return torch.tensor(frames), torch.tensor(np.concatenate(tables, 1)[:length]).float()


def clips_of(data, split):
    folders = sorted(record_folder(data, split, 0).iterdir(), key=lambda p: int(p.name))
    return [read_clip(folder) for folder in folders]


def model_of(path):
    """The model of a checkpoint, put together here."""
    state = load(path.parent, path.name)
    model = RecurrentVAE(SimpleNamespace(**state["args"]))
    model.load_state_dict(state["state_dict"])
    return model.eval()


def predict(path, clips, seed=1, kind="sample", sample=0, noise=noise_source):
    """What a rollout of each clip must arrive at."""
    model, out = model_of(path), []
    for i, (frames, rows) in enumerate(clips):
        draw = noise(kind, seed, [i], sample)
        out.append(torch.cat([*model.rollout(frames[None, :PAST], rows[None], draw)]))
    return out


def psnr(pred, true):
    """The contract's score of one clip: of each channel of each frame that is predicted."""
    scored = slice(PAST, PAST + FUTURE)
    error = np.square(np.float64(pred[scored]) - np.float64(true[scored])).mean(axis=(2, 3))
    return (10 * np.log10(1 / error)).mean()


def frame_times(path):
    """uint8 (T, H, W, 3): what a gif shows, once for every 100 ms."""
    frames = []
    with Image.open(path) as gif:
        for frame in ImageSequence.Iterator(gif):
            frames += [np.asarray(frame.convert("RGB"))] * (frame.info["duration"] // 100)
    return np.stack(frames)


def is_picture(path):
    with Image.open(path) as image:
        image.load()
    return min(image.size) > 50 and len(np.unique(np.asarray(image.convert("L")))) > 10


def test_a_run_writes_all_that_the_readme_names(train):
    folder = train("run", 2, "--per_save 1")
    kept = {"args.json", "metrics.csv", "val_frames.csv", "val.gif", "val_strip.png", "plots"}
    kept |= {"best_score.ckpt", "last.ckpt", "epoch=0.ckpt", "epoch=1.ckpt", "report.html"}
    assert {p.name for p in folder.iterdir()} == kept
    plots = {*report.CURVES, "curves", "psnr_per_frame", "kl_per_dimension"}
    assert {p.name for p in (folder / "plots").iterdir()} == {f"{name}.png" for name in plots}
    assert all(is_picture(p) for p in [*folder.glob("plots/*.png"), folder / "val_strip.png"])
    args = json.loads((folder / "args.json").read_text())
    assert (args["lab"], args["n_past"], args["num_epoch"]) == ("robot", 2, 2)
    assert [row["epoch"] for row in read_csv(folder / "metrics.csv")] == [0, 1]
    assert [row["frame"] for row in read_csv(folder / "val_frames.csv")] == [2, 3, 4, 5]
    assert report.gif_time(folder / "val.gif") == 100 * EVAL


def test_the_baseline_is_the_last_given_frame_repeated(train, data, no_plots):
    (row,) = read_csv(train("run") / "metrics.csv")
    clips = [frames.numpy() for frames, _ in clips_of(data, "validate")]
    expected = [psnr(frames[[PAST - 1] * EVAL], frames) for frames in clips]
    assert row["val/psnr_given_frame_repeated"] == pytest.approx(np.mean(expected), abs=1e-4)


@pytest.mark.parametrize(
    "flags", ["", "--z_source mean --seed 4", "--ema 0.5 --learned_prior --last_frame_skip"]
)
def test_val_psnr_is_that_of_a_rollout_of_every_clip(train, data, no_plots, flags):
    folder = train("run", 2, f"--per_save 1 {flags}")
    seed, kind = (4, "mean") if "mean" in flags else (1, "sample")
    clips = clips_of(data, "validate")
    for row in read_csv(folder / "metrics.csv"):
        pred = predict(folder / f"epoch={row['epoch']:.0f}.ckpt", clips, seed, kind)
        expected = np.mean([psnr(p.numpy(), frames) for p, (frames, _) in zip(pred, clips)])
        assert row["val/psnr"] == pytest.approx(expected, abs=1e-4)


def test_val_frames_is_the_mean_psnr_of_every_predicted_frame(train, data, no_plots):
    folder = train("run")
    clips = clips_of(data, "validate")
    pred = predict(folder / "best_score.ckpt", clips)
    error = [(p - frames)[PAST:].square().mean((2, 3)) for p, (frames, _) in zip(pred, clips)]
    expected = (-10 * torch.stack(error).log10()).mean((0, 2))
    rows = read_csv(folder / "val_frames.csv")
    assert [row["rollout"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-3)


def kl_by_hand(model, frames):
    """From posterior to learned prior: the mean over clips and predicted frames."""
    model = copy.deepcopy(model)  # BatchNorm would count the frames twice
    features = model.encode(frames)[0]
    (mu, logvar, _), (mu_p, logvar_p, _) = (
        net(x) for net, x in ((model.posterior, features[:, 1:]), (model.prior, features[:, :-1]))
    )
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(mu_p, (logvar_p / 2).exp()))
    return kl.sum().item() / (len(frames) * (frames.shape[1] - 1))


def test_kl_in_the_metrics_is_per_predicted_frame(train, trained, monkeypatch, no_plots):
    one_step, expected = Trainer.Trainer.training_one_step, []

    def training_one_step(self, frames, *more):
        expected.append(kl_by_hand(self.model, frames))
        return one_step(self, frames, *more)

    monkeypatch.setattr(Trainer.Trainer, "training_one_step", training_one_step)
    line = f"--ckpt_path {trained.loud} --learned_prior --kl_anneal_type None --kl_anneal_stop 0.5"
    (row,) = read_csv(train("run", 1, f"{line} --epoch_size 1") / "metrics.csv")
    assert row["train/kl"] == pytest.approx(expected[0], rel=1e-4)
    assert row["train/loss"] == pytest.approx(row["train/mse"] + 0.5 * expected[0], rel=1e-4)


def test_standardised_conditions_are_those_of_the_training_set(train, data, no_plots):
    state = load(train("run", 1, "--standardise"))["state_dict"]
    rows = torch.cat([rows for _, rows in clips_of(data, "train")])
    for name, expected in (("mean", rows.mean(0)), ("std", rows.std(0).clamp_min(1e-6))):
        torch.testing.assert_close(state[f"condition_{name}"], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("line", ["", "--random_offset --batch_size 3"])
def test_training_sees_the_frames_and_rows_that_were_drawn(train, monkeypatch, no_plots, line):
    one_step, seen, trainers = Trainer.Trainer.training_one_step, [], set()

    def training_one_step(self, frames, conditions, *more):
        seen.append((frames, conditions))
        trainers.add(self)
        return one_step(self, frames, conditions, *more)

    monkeypatch.setattr(Trainer.Trainer, "training_one_step", training_one_step)
    train("run", 2, line)
    (trainer,) = trainers
    drawn = [batch for epoch in (0, 1) for batch in trainer.clips.batches(epoch)]
    dataset = trainer.clips.dataset
    frames, rows = np.asarray(dataset.frames), np.asarray(dataset.conditions)
    for numbers, (got, conditions) in zip(drawn, seen, strict=True):
        expected = frames[numbers].transpose(0, 1, 4, 2, 3) / 255
        assert np.allclose(got, expected, atol=1e-6)
        assert np.array_equal(conditions, rows[numbers])


@pytest.mark.parametrize("tfr", [0, 1])
def test_training_learns(train, no_plots, tfr):
    folder = train("run", 4, f"--tfr {tfr} --epoch_size 12 --lr 0.01 --kl_anneal_stop 0.0001")
    mse = [row["train/mse"] for row in read_csv(folder / "metrics.csv")]
    assert mse[-1] < 0.5 * mse[0]


# ---------------------------------------------------------------- carrying on

SETTINGS = {
    "plain": "",
    "coins and offsets": "--tfr 0.5 --random_offset",
    "a learned prior": "--learned_prior --last_frame_skip --tfr 0.5",
    "averaged": "--ema 0.9 --kl_anneal_cyclical --kl_anneal_cycle 2 --tfr_mode linear",
    "all": "--tfr 0.5 --learned_prior --last_frame_skip --ema 0.9 --random_offset --z_source mean "
    "--standardise --condition previous",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_stopped_in_any_epoch_is_the_uninterrupted_run_bit_for_bit(
    train, call, data, tmp_path, monkeypatch, no_plots, setting
):
    line = f"{SETTINGS[setting]} --epoch_size 2"
    whole = train("whole", 3, line)
    for epoch in (1, 2):
        with monkeypatch.context() as patch:
            break_off(patch, epoch, step=1)
            assert train_in(call, data, tmp_path / "parts", 3, line).code == 130
        assert load(tmp_path / "parts")["last_epoch"] == epoch
    assert_same_run(whole, train("parts", 3, line))


def test_a_robot_run_is_not_carried_on_as_a_pose_run(train, call, dataset, no_plots):
    folder = train("run")
    done = call("Trainer", "--DR", dataset, "--save_root", folder, "--num_epoch", 2, *POSE)
    assert done.code == 1
    assert "--lab robot" in done.err


def test_a_pose_run_is_not_carried_on_as_a_robot_run(call, data, dataset, tmp_path, no_plots):
    places = ["--DR", dataset, "--save_root", tmp_path / "run"]
    assert call("Trainer", *places, "--num_epoch", 1, *POSE).code == 0
    before = (tmp_path / "run/last.ckpt").read_bytes()
    done = train_in(call, data, tmp_path / "run", 2)
    assert done.code == 1
    assert "--lab pose" in done.err
    assert (tmp_path / "run/last.ckpt").read_bytes() == before


@pytest.mark.parametrize("change", ["--n_future 4", "--z_dim 3", "--last_frame_skip"])
def test_another_experiment_is_refused_by_its_flag(train, call, data, no_plots, change):
    folder = train("run")
    done = train_in(call, data, folder, 2, change)
    assert done.code == 1
    assert change.split()[0] in done.err


# ---------------------------------------------------------------- nothing leaks


@pytest.fixture
def trainer(data, trained, tmp_path):
    flags = ["--DR", str(data), "--save_root", str(tmp_path / "leak"), *TINY, "--learned_prior"]
    args, _ = parse("Trainer", flags)
    lab = LABS["robot"](args)
    trainer = Trainer.Trainer(args, torch.device("cpu"), lab.open_train(), lab.open_val())
    trainer.start_from(trained.loud)
    return trainer


def make_tester(data, ckpt, folder, *flags):
    places = ["--DR", str(data), "--save_root", str(folder), "--ckpt_path", str(ckpt)]
    places += ["--precision", "float32"]
    args, typed = parse("Tester", [*places, *flags], lab="robot")
    return Tester.Tester(args, typed, torch.device("cpu"), torch.load(ckpt, weights_only=True))


@pytest.fixture
def tester(data, trained, tmp_path):
    return make_tester(data, trained.loud, tmp_path / "test")


NAN = float("nan")


def test_validation_sees_no_true_frame_after_the_given_ones(trainer):
    before = trainer.roll_out_validation()
    assert before[:, PAST:].std(dim=1).mean() > 1e-3  # the frames do change
    trainer.val_frames[:, PAST:] = NAN
    assert torch.equal(trainer.roll_out_validation(), before)
    trainer.val_frames[:, 0] = NAN  # and every given one counts
    assert trainer.roll_out_validation()[:, PAST:].isnan().flatten(1).any(1).all()


def test_the_tester_sees_no_true_frame_after_the_given_ones(tester):
    before = torch.stack(tester.rollout())
    for frames in tester.truth:
        frames[PAST:] = NAN
    assert torch.equal(torch.stack(tester.rollout()), before)
    for given in tester.given:
        given[0] = NAN
    assert torch.stack(tester.rollout())[:, PAST:].isnan().flatten(1).any(1).all()


def test_validation_clips_alone_or_together_or_again_are_the_same(trainer, monkeypatch):
    together = trainer.roll_out_validation()
    assert torch.equal(trainer.roll_out_validation(), together)
    assert (together[0] - together[1])[PAST:].abs().max() > 0.1
    monkeypatch.setattr(Trainer, "VAL_BATCH", 1)
    torch.testing.assert_close(trainer.roll_out_validation(), together, **SAME)


def test_test_clips_alone_or_together_or_again_are_the_same(tester, data, trained, tmp_path):
    together = torch.stack(tester.rollout())
    assert torch.equal(torch.stack(tester.rollout()), together)
    alone = make_tester(data, trained.loud, tmp_path / "alone", "--batch_size", "1")
    torch.testing.assert_close(torch.stack(alone.rollout()), together, **SAME)


def test_a_rollout_is_that_of_the_model_put_together_here(tester, trainer, data, trained):
    for split, found in (("test", tester.rollout()), ("validate", trainer.roll_out_validation())):
        expected = predict(trained.loud, clips_of(data, split))
        torch.testing.assert_close(torch.stack([*found]), torch.stack(expected), **SAME)


def test_validating_in_between_changes_no_bit_of_the_training(train, no_plots):
    often = train("often", 3, "--val_every 1 --store_visualization --tfr 0.5")
    once = train("once", 3, "--val_every 3 --tfr 0.5")
    for name in ("state_dict", "optimizer"):
        assert differences(load(often)[name], load(once)[name]) == []



def test_start_from_other_lab(call, trained, dataset, tmp_path):
    done = call(
        "Trainer",
        "--DR",
        dataset,
        "--save_root",
        tmp_path / "x",
        *POSE,
        "--num_epoch",
        1,
        "--ckpt_path",
        trained.best,
    )
    assert "--lab" in done.err


def test_standardised_and_other_weights_do_not_mix(call, data, trained, tmp_path, no_plots):
    flags = f"--learned_prior --standardise --ckpt_path {trained.best}"
    done = train_in(call, data, tmp_path / "run", 1, flags)
    assert done.code == 1
    assert "trained without --standardise" in done.err


def test_pose_run_older_than_labs(call, data, dataset, tmp_path, no_plots):
    places = ["--DR", dataset, "--save_root", tmp_path / "run"]
    call("Trainer", *places, "--num_epoch", 1, *POSE)
    state = load(tmp_path / "run")
    del state["args"]["lab"]
    torch.save(state, tmp_path / "run/last.ckpt")
    done = train_in(call, data, tmp_path / "run", 2)
    assert "--lab" in done.err


def test_preview_and_training_share_one_table(train, no_plots):
    """What --preview says of an epoch is what metrics.csv says of it."""
    line = "--kl_anneal_cyclical --kl_anneal_cycle 2 --tfr_mode linear --epoch_size 1"
    rows = read_csv(train("run", 4, line) / "metrics.csv")
    args = parse(f"--niter 4 {line}")
    for row, plan in zip(rows, schedules.table(args), strict=True):
        assert all(row[f"train/{name}"] == plan[name] for name in ("beta", "tfr", "lr"))
