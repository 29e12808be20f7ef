"""The robot lab's published nets and loops, written independently of the package.

One call per net and frame, hidden states on the modules, published names of weights.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

G, Z, RNN, W, PAST, CONDITION = 8, 4, 12, 2, 2, 7


class Layer(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2))

    def forward(self, x):
        return self.main(x)


def layers(*widths):
    return nn.Sequential(*(Layer(a, b) for a, b in zip(widths, widths[1:])))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = layers(3, W, W), layers(W, 2 * W, 2 * W)
        self.c3 = layers(2 * W, 4 * W, 4 * W, 4 * W)
        self.c4 = layers(4 * W, 8 * W, 8 * W, 8 * W)
        self.c5 = nn.Sequential(nn.Conv2d(8 * W, G, 4), nn.BatchNorm2d(G), nn.Tanh())

    def forward(self, x):
        h1 = self.c1(x)
        h2 = self.c2(F.max_pool2d(h1, 2))
        h3 = self.c3(F.max_pool2d(h2, 2))
        h4 = self.c4(F.max_pool2d(h3, 2))
        return self.c5(F.max_pool2d(h4, 2)).view(-1, G), [h1, h2, h3, h4]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.upc1 = nn.Sequential(
            nn.ConvTranspose2d(G, 8 * W, 4), nn.BatchNorm2d(8 * W), nn.LeakyReLU(0.2)
        )
        self.upc2 = layers(16 * W, 8 * W, 8 * W, 4 * W)
        self.upc3 = layers(8 * W, 4 * W, 4 * W, 2 * W)
        self.upc4 = layers(4 * W, 2 * W, W)
        self.upc5 = nn.Sequential(Layer(2 * W, W), nn.ConvTranspose2d(W, 3, 3, 1, 1), nn.Sigmoid())

    def forward(self, vector, skips):
        x = self.upc1(vector.view(-1, G, 1, 1))
        for stage, skip in zip((self.upc2, self.upc3, self.upc4, self.upc5), skips[::-1]):
            x = stage(torch.cat([F.interpolate(x, scale_factor=2), skip], 1))
        return x


class Recurrent(nn.Module):
    """LSTM cells with the hidden state on the module, as published."""

    def __init__(self, inputs, n_layers):
        super().__init__()
        self.embed = nn.Linear(inputs, RNN)
        self.lstm = nn.ModuleList(nn.LSTMCell(RNN, RNN) for _ in range(n_layers))
        self.hidden = [None] * n_layers

    def step(self, x):
        x = self.embed(x)
        for i, cell in enumerate(self.lstm):
            self.hidden[i] = cell(x, self.hidden[i])
            x = self.hidden[i][0]
        return x


class Predictor(Recurrent):
    def __init__(self):
        super().__init__(CONDITION + G + Z, 2)
        self.output = nn.Sequential(nn.Linear(RNN, G), nn.BatchNorm1d(G), nn.Tanh())

    def forward(self, x):
        return self.output(self.step(x))


class Posterior(Recurrent):
    def __init__(self):
        super().__init__(G, 1)
        self.mu_net, self.logvar_net = nn.Linear(RNN, Z), nn.Linear(RNN, Z)

    def forward(self, x, eps):
        x = self.step(x)
        mu, logvar = self.mu_net(x), self.logvar_net(x)
        return mu + eps * torch.exp(logvar / 2), mu, logvar


def make_nets() -> dict[str, nn.Module]:
    return {
        "encoder": Encoder(),
        "decoder": Decoder(),
        "frame_predictor": Predictor(),
        "posterior": Posterior(),
    }


def forget(nets):
    for name in ("frame_predictor", "posterior"):
        nets[name].hidden = [None] * len(nets[name].hidden)


def robot_step(
    nets, optim, frames, conditions, forced, noise, past=PAST, last_frame_skip=False, feedback=1
):
    """One optimizer step on frames (B, T, 3, 64, 64), conditions (B, T, 7), beta 1.

    The loss is the sum over the predicted frames. All true frames are encoded first. Without
    teacher forcing the prediction of frame i replaces it for every i >= feedback.
    """
    forget(nets)
    encoded, loss = [nets["encoder"](frame) for frame in frames.unbind(1)], 0
    for i in range(1, frames.shape[1]):
        vector = encoded[i - 1][0]
        if last_frame_skip or i < past:
            skips = encoded[i - 1][1]
        z, mu, logvar = nets["posterior"](encoded[i][0], noise[:, i - 1])
        x = nets["frame_predictor"](torch.cat([conditions[:, i], vector, z], 1))
        pred = nets["decoder"](x, skips)
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp()) / len(frames)
        loss = loss + F.mse_loss(pred, frames[:, i]) + kl
        if not forced and i >= feedback:
            encoded[i] = nets["encoder"](pred)
    optim.zero_grad()
    loss.backward()
    optim.step()


@torch.no_grad()
def published_rollout(nets, given, conditions, z):
    """Given frames pass through with z of their posterior; skips stay those of frame PAST - 2."""
    forget(nets)
    frames, skips = [given[:, 0]], None
    for i in range(1, conditions.shape[1]):
        vector, maps = nets["encoder"](frames[-1])
        if i < PAST:
            skips = maps
            target, _ = nets["encoder"](given[:, i])
            latent, *_ = nets["posterior"](target, z[:, i - 1])
        else:
            latent = z[:, i - 1]
        x = nets["frame_predictor"](torch.cat([conditions[:, i], vector, latent], 1))
        frames.append(given[:, i] if i < PAST else nets["decoder"](x, skips))
    return torch.stack(frames, 1)
