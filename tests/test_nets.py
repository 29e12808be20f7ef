"""The pose lab's five nets: sizes and state_dict keys of published checkpoints, and the numbers."""

import pytest
import torch
from helpers import TINY, assert_close, settings_of

from modules.models.pose import VAE_Model
from modules.nets import unet
from modules.nets.course import Gaussian_Predictor, Label_Encoder
from modules.nets.gaussian import bound
from modules.training.losses import kl_criterion

pytestmark = pytest.mark.usefixtures("float64")

NETS = {
    "frame_transformation": 193_568,
    "label_transformation": 16_865,
    "Gaussian_Predictor": 8_289,
    "Decoder_Fusion": 617_768,
    "Generator": 749_163,
}
PUBLISHED_KEYS = """
frame_transformation.0.conv1.weight frame_transformation.1.block.0.conv1.0.weight
frame_transformation.1.block.0.depth_conv.weight frame_transformation.1.block.1.conv_out.weight
label_transformation.1.weight label_transformation.4.conv1.weight Gaussian_Predictor.6.weight
Decoder_Fusion.5.weight Generator.7.weight""".split()
ODD = "--F_dim 20 --L_dim 5 --N_dim 7 --D_out_dim 18".split()
DEFAULT = []


def make_model(flags):
    torch.manual_seed(0)
    return VAE_Model(settings_of([*flags, "--precision", "float32"]))


def with_random_weights(net):
    """All parameters and statistics random: a bias of 0 or a variance of 1 could hide an error."""
    generator = torch.Generator().manual_seed(1)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
        if name.endswith("running_var"):
            value.abs_().add_(0.5)
    return net


# ---------------------------------------------------------------- state_dict keys


def conv(out, inp, size):
    return {"weight": (out, inp, size, size), "bias": (out,)}


def under(name, entries):
    return {f"{name}.{key}": shape for key, shape in entries.items()}


def residual(inp, out):
    keys = under("conv1", conv(out, inp, 3)) | under("conv2", conv(out, out, 3))
    return keys if inp == out else keys | under("skip", conv(out, inp, 1))


def depth_conv_block(inp, out):
    depth = under("conv1.0", conv(inp, inp, 1)) | under("depth_conv", conv(inp, 1, 3))
    depth |= under("conv2", conv(out, inp, 1))
    if inp != out:
        depth |= under("adaptor", conv(out, inp, 1))
    ffn = under("conv", conv(4 * out, out, 1)) | under("conv_out", conv(out, 2 * out, 1))
    return under("block.0", depth) | under("block.1", ffn)


def norm(channels):
    names = "weight", "bias", "running_mean", "running_var"
    return dict.fromkeys(names, (channels,)) | {"num_batches_tracked": ()}


def layers(numbered):
    return {k: s for i, keys in numbered.items() for k, s in under(str(i), keys).items()}


def expected_entries(F_dim, L_dim, N_dim, D_out_dim):
    """name -> shape of every entry of a published checkpoint with these sizes."""
    f8, f4, f2, n4, n2 = F_dim // 8, F_dim // 4, F_dim // 2, N_dim // 4, N_dim // 2
    d8, d4, d2, both = D_out_dim // 8, D_out_dim // 4, D_out_dim // 2, F_dim + L_dim
    fused = both + N_dim
    nets = {
        "frame_transformation": {
            0: residual(3, f8), 1: depth_conv_block(f8, f8), 2: residual(f8, f4),
            3: depth_conv_block(f4, f4), 4: residual(f4, f2), 5: depth_conv_block(f2, f2),
            6: conv(F_dim, f2, 3),
        },
        "label_transformation": {
            1: conv(L_dim // 2, 3, 7), 2: norm(L_dim // 2), 4: residual(L_dim // 2, L_dim),
        },
        "Gaussian_Predictor": {
            0: residual(both, n4), 1: depth_conv_block(n4, n4), 2: residual(n4, n2),
            3: depth_conv_block(n2, n2), 4: residual(n2, N_dim), 6: conv(2 * N_dim, N_dim, 1),
        },
        "Decoder_Fusion": {
            0: depth_conv_block(fused, fused), 1: residual(fused, fused // 4),
            2: depth_conv_block(fused // 4, fused // 2), 3: residual(fused // 2, fused // 2),
            4: depth_conv_block(fused // 2, d2), 5: conv(D_out_dim, d2, 1),
        },
        "Generator": {
            0: depth_conv_block(D_out_dim, D_out_dim), 1: residual(D_out_dim, d2),
            2: depth_conv_block(d2, d2), 3: residual(d2, d4), 4: depth_conv_block(d4, d4),
            5: residual(d4, d8), 6: depth_conv_block(d8, d8), 7: conv(3, d8, 1),
        },
    }  # fmt: skip
    return {k: s for net, parts in nets.items() for k, s in under(net, layers(parts)).items()}


@pytest.mark.parametrize("flags", [DEFAULT, TINY, ODD], ids=["default", "tiny", "odd"])
def test_state_dict_has_the_published_keys_and_shapes(flags):
    model = make_model(flags)
    dims = {n: getattr(model.settings, n) for n in ("F_dim", "L_dim", "N_dim", "D_out_dim")}
    found = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert found == expected_entries(**dims)
    assert list(dict.fromkeys(name.split(".")[0] for name in found)) == list(NETS)


def test_default_sizes_have_the_published_number_of_parameters():
    state = make_model(DEFAULT).state_dict()
    values = {net: sum(v.numel() for k, v in state.items() if k.startswith(net)) for net in NETS}
    assert values == NETS
    assert (len(state), sum(values.values())) == (209, 1_585_653)
    assert set(PUBLISHED_KEYS) <= set(state)


@pytest.mark.parametrize("flags", [DEFAULT, ["--sigmoid"]], ids=["plain", "sigmoid"])
def test_published_state_dict_loads_strictly_and_completely(flags):
    model = make_model(flags)
    published = {k: torch.randn(s) for k, s in expected_entries(128, 32, 12, 192).items()}
    published["label_transformation.2.num_batches_tracked"] = torch.tensor(1463)
    model.load_state_dict(published, strict=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, published[name]), name


# ---------------------------------------------------------------- shapes and numbers


@pytest.mark.parametrize(("flags", "h", "w"), [(DEFAULT, 32, 64), (TINY, 11, 13)])
def test_all_nets_keep_height_and_width(flags, h, w):
    model, a = make_model(flags), settings_of(flags)
    image = torch.rand(2, 3, h, w)
    frame, pose = model.frame_transformation(image), model.label_transformation(image)
    z, mu, logvar = model.Gaussian_Predictor(frame, pose)
    fused = model.Decoder_Fusion(frame, pose, z)
    out = model.Generator(fused)
    found = [tuple(x.shape) for x in (frame, pose, z, mu, logvar, fused, out)]
    channels = [a.F_dim, a.L_dim, a.N_dim, a.N_dim, a.N_dim, a.D_out_dim, 3]
    assert found == [(2, c, h, w) for c in channels]


def test_lower_stages_of_the_unet_do_not_pass_on_growth():
    """Weights that grow a hundredfold leave the output as it is; without a norm it grows as well.
    They are large from the start, so that GroupNorm's epsilon is lost in rounding."""
    torch.manual_seed(0)
    net, x, outputs = unet.Decoder_Fusion(8, 8), torch.rand(2, 8, 16, 32), []
    for factor in (1e6, 1e2):
        for block in (*net.down[1:], net.up[0]):
            block.conv1.weight.data *= factor
            block.conv1.bias.data *= factor
        outputs.append(net(x))
    assert_close(*outputs)


def test_per_image_equals_batchnorm_in_training_mode_on_each_image():
    net = with_random_weights(Label_Encoder(3, 6))
    poses = torch.rand(3, 3, 12, 16) * torch.tensor([0.2, 1.0, 3.0]).view(3, 1, 1, 1)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.per_image = True
    found = net.eval()(poses)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    net.per_image = False
    alone = torch.cat([net.train()(pose[None]) for pose in poses])
    assert_close(found, alone)


def test_per_image_has_no_effect_in_training():
    net = with_random_weights(Label_Encoder(3, 6)).train()
    poses = torch.rand(3, 3, 12, 16)
    plain = net(poses)
    net.per_image = True
    assert torch.equal(net(poses), plain)


def test_z_has_the_mean_and_standard_deviation_of_the_posterior():
    torch.manual_seed(0)
    mu = torch.tensor([3.0, -1.0]).view(2, 1).expand(2, 40_000)
    logvar = torch.tensor([0.25, 4.0]).log().view(2, 1).expand(2, 40_000)
    z = Gaussian_Predictor.reparameterize(mu, logvar)
    torch.testing.assert_close(z.mean(1), torch.tensor([3.0, -1.0]), rtol=0, atol=0.04)
    torch.testing.assert_close(z.std(1), torch.tensor([0.5, 2.0]), rtol=0.02, atol=0)


# ---------------------------------------------------------------- bounded log variance


@pytest.mark.parametrize("value", [-1e30, -1e8, -31.0, -30.0, 0.01, 10.0, 10.5, 1e3, 1e8, 1e30])
def test_bound_clamps_the_value_and_passes_the_gradient(value):
    x = torch.tensor([value], requires_grad=True)
    bounded = bound(x, -30.0, 10.0)
    bounded.sum().backward()
    assert_close(bounded.detach(), x.detach().clamp(-30, 10))
    assert x.grad.item() == 1.0


@pytest.mark.parametrize("bias", [200.0, 1e8, 1e30, -1e8])
def test_a_huge_logvar_gives_finite_z_kl_and_gradients(bias):
    net = with_random_weights(Gaussian_Predictor(7, 4))
    with torch.no_grad():
        net[6].bias[4:] = bias
    z, mu, logvar = net(torch.randn(2, 5, 6, 8), torch.randn(2, 2, 6, 8))
    kl = kl_criterion(mu, logvar, 2)
    (z.mean() + kl).backward()
    assert torch.isfinite(z).all() and torch.isfinite(kl)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
