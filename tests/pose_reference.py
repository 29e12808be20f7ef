"""The pose lab's model written frame by frame, as the reference that tests compare with."""

import torch


def encode(model, frame):
    frame = frame if model.settings.published_step else frame.clamp(0, 1)
    features = model.frame_transformation(frame)
    return features.detach() if model.settings.feedback == "features" else features


def condition_on(model, pose, given):
    """Pose features, with --first_frame also the features of the given frame."""
    features = model.label_transformation(pose)
    if model.settings.first_frame:
        features = torch.cat([features, model.frame_transformation(given)], 1)
    return features


def generate(model, features, condition, z):
    """The next frame from the features of the previous one, the condition and z."""
    out = model.Generator(model.Decoder_Fusion(features, condition, z))
    if model.settings.scene:
        mask = 0.05 + 0.95 / (1 + torch.exp(1 - out[:, 3:]))
        return (1 - mask) * model.scene + mask * out[:, :3]
    return 1 / (1 + torch.exp(-out)) if model.settings.output_activation == "sigmoid" else out


def gaussian(net, features, condition):
    """mu and logvar of a Gaussian_Predictor."""
    zeros = torch.zeros(len(features), 4, *features.shape[-2:])  # the noise of z, not used here
    return net(features, condition, zeros)[1:]


def reference_forward(model, frames, poses, forced, noise):
    """model(frames, poses, forced) with this noise (B, T-1, N, H, W) of z."""
    last, results = frames[:, 0], []
    for t in range(1, frames.shape[1]):
        previous = frames[:, t - 1] if forced else last
        features = encode(model, previous)
        condition = condition_on(model, poses[:, t], frames[:, 0])
        seen = features
        if model.settings.posterior == "current":
            seen = model.frame_transformation(frames[:, t])
        mu, logvar = gaussian(model.Gaussian_Predictor, seen, condition)
        z = mu + noise[:, t - 1] * torch.exp(logvar / 2)
        frame = generate(model, features, condition, z)
        if model.settings.learned_prior:
            mu_p, logvar_p = gaussian(model.prior, features, condition)
            mu, logvar = (mu - mu_p) / (logvar_p / 2).exp(), logvar - logvar_p
        results.append((frame, mu, logvar))
        last = frame.detach() if model.settings.feedback == "frame" else frame
    return [torch.stack(parts, 1) for parts in zip(*results)]


@torch.no_grad()
def reference_rollout(model, first, poses, noises):
    frames = [first]
    for t, noise in enumerate(noises, start=1):
        features, condition = encode(model, frames[-1]), condition_on(model, poses[:, t], first)
        z = noise
        if model.settings.posterior == "previous" or model.settings.learned_prior:
            net = model.prior if model.settings.posterior == "current" else model.Gaussian_Predictor
            mu, logvar = gaussian(net, features, condition)
            z = mu + noise * torch.exp(logvar / 2)
        frames.append(generate(model, features, condition, z))
    return torch.stack(frames, 1)


EXTRAS = {
    "plain": {},
    "sigmoid": {"output_activation": "sigmoid"},
    "unclamped": {"published_step": True},
    "scene": {"scene": True},
    "first frame": {"first_frame": True},
    "prior": {"learned_prior": True},
    "unet": {"nets": "unet", "scene": True, "first_frame": True},
}
