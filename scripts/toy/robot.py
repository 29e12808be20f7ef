"""A procedural robot arm that pushes things over a table: commands, motion, ray-traced frames.

Row t of positions is where the fingertips are in frame t. Row t of actions is commanded at t and
shows in frame t + 1: positions[t + 1] is positions[t] moved by dx, dy, kept in the workspace, at
the height of the lift command; the close command sets the gripper. Metres, pure functions of seeds.
"""

import numpy as np
from PIL import Image
from video.skeleton import along

from .dance import hsv

# ---------------------------------------------------------------- commands and motion
LENGTH = 30  # frames of a clip
LOW, HIGH = np.array((0.43, -0.31, 0.19)), np.array((0.86, 0.23, 0.32))  # workspace: x, y, z
MOVE, LEVELS = 0.1, 4  # the longest dx or dy of a step; close and lift commands are 0..LEVELS
TABLE = np.array(((0.25, -0.48), (1.04, 0.40)))  # two corners of its top
TOP = 0.17  # height of the table's top
HAND = 0.05  # radius of the disc with which the gripper pushes
SUBSTEPS = 8  # of a step, so that the gripper cannot jump over a thing


def make_things(rng, hand):
    """3..5 things that touch neither each other nor the hand: dicts, and x, y, angle (N, 3)."""
    hues, things, spots = rng.permutation(8) / 8, [], [(*hand[:2], HAND)]
    for hue in hues[: rng.integers(3, 6)]:
        kind, radius = ("box", "tube", "ball")[rng.integers(3)], rng.uniform(0.042, 0.06)
        height = 2 * radius if kind == "ball" else rng.uniform(0.06, 0.1)
        other = hue + rng.choice((0.15, 0.5))
        colours = hsv(hue, 0.85, rng.uniform(0.55, 0.9)), hsv(other, 0.4, 0.9)
        things.append({"kind": kind, "radius": radius, "height": height, "colours": colours})
        x, y = free_spot(rng, spots, radius)
        spots.append((x, y, radius))
    return things, np.array([(x, y, rng.uniform(0, 2 * np.pi)) for x, y, _ in spots[1:]])


def free_spot(rng, spots, radius):
    """A place in the workspace, clear of the discs (x, y, radius) if some tries can find one."""
    for _ in range(50):
        x, y = rng.uniform(LOW[:2], HIGH[:2])
        if all(np.hypot(x - a, y - b) > r + radius + 0.01 for a, b, r in spots):
            break
    return x, y


def choose_goal(rng, hand, poses):
    """Where to go next, through a thing or anywhere, with new close and lift commands."""
    goal, lift = rng.uniform(LOW[:2], HIGH[:2]), rng.integers(LEVELS + 1)
    if rng.random() < 0.6:
        target = poses[rng.integers(len(poses)), :2]
        goal = target + 0.6 * (target - hand[:2])
        lift = rng.integers(2)
    return np.clip(goal, LOW[:2], HIGH[:2]), (rng.integers(LEVELS + 1), lift)


def simulate(rng):
    """One clip: actions (T, 4), positions (T, 3), opening 0..1 (T,), things, poses (T, N, 3)."""
    hand, opening, move = np.round(rng.uniform(LOW, HIGH), 4), rng.random(), np.zeros(2)
    things, pose = make_things(rng, hand)
    rows, patience = [], 0
    for _ in range(LENGTH):
        if patience == 0:
            goal, grip = choose_goal(rng, hand, pose)
            patience = rng.integers(2, 5)
        patience -= 1
        wish = np.clip(goal - hand[:2], -MOVE, MOVE)
        move = np.round(0.25 * move + 0.75 * wish, 4)
        rows.append(((*move, *grip), hand, opening, pose))
        hand, opening, pose = advance(hand, pose, things, rows[-1][0])
    actions, positions, openings, poses = map(np.array, zip(*rows))
    return actions, positions, openings, things, poses


def advance(hand, pose, things, action):
    """State at t and the action (4,) commanded there -> hand, opening and poses at t + 1."""
    dx, dy, close, lift = action
    height = LOW[2] + (HIGH[2] - LOW[2]) * lift / LEVELS
    target = np.round(np.clip((hand[0] + dx, hand[1] + dy, height), LOW, HIGH), 4)
    path, pose = np.linspace(hand, target, SUBSTEPS + 1), pose.copy()
    sizes = np.array([(thing["radius"], TOP + thing["height"]) for thing in things]).T
    for start, end in zip(path, path[1:]):
        push(pose, sizes, end, end[:2] - start[:2])
    return target, 1 - close / LEVELS, pose


def push(pose, sizes, hand, step):
    """Slide things out of the gripper's disc and apart, and turn what it rubs along; in place."""
    radii, tops = sizes
    away = pose[:, :2] - hand[:2] + 1e-6
    distance = np.hypot(*away.T)
    overlap = np.maximum(radii + HAND - distance, 0) * (hand[2] < tops)
    away /= distance[:, None]
    pose[:, :2] += overlap[:, None] * away
    rubbed = away[:, 1] * step[0] - away[:, 0] * step[1]
    pose[:, 2] += np.where(overlap > 0, 0.7 * rubbed / radii, 0)
    gaps = pose[:, None, :2] - pose[None, :, :2]
    distance = np.hypot(gaps[..., 0], gaps[..., 1]) + 1e-6
    overlap = np.maximum(radii[:, None] + radii - distance, 0) * (1 - np.eye(len(radii)))
    pose[:, :2] += 0.5 * (gaps * (overlap / distance)[..., None]).sum(1)
    pose[:, :2] = np.clip(pose[:, :2], TABLE[0] + radii[:, None], TABLE[1] - radii[:, None])


# ---------------------------------------------------------------- camera and light
SIZE, FINE = 64, 2  # pixels of a frame; rays per pixel and direction
EYE, TARGET = np.array((1.48, 0.36, 1.02)), np.array((0.55, -0.06, 0.32))
FOCAL = 1.2  # in frame widths


def unit(vector):
    """The vectors (..., 3) at length one."""
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def look():
    """The camera's axes right, down, forward (3, 3) and unit rays (H, W, 3) of its pixels."""
    forward = unit(TARGET - EYE)
    right = unit(np.cross(forward, (0, 0, 1)))
    axes = np.stack((right, np.cross(forward, right), forward))
    v, u = (np.mgrid[0 : SIZE * FINE, 0 : SIZE * FINE] + 0.5) / (SIZE * FINE) - 0.5
    screen = np.stack((u, v, np.full_like(u, FOCAL)), -1)
    return axes, unit(screen @ axes).astype(np.float32)


AXES, RAYS = look()
LIGHT = unit(np.array((0.5, -0.45, 1.0)))  # towards the lamp
GLOSS = unit(LIGHT + unit(EYE - TARGET))  # normals that mirror the lamp into the camera


def window(points, radius):
    """Slices of the picture that hold balls of that radius round points (N, 3)."""
    right, down, depth = AXES @ (np.asarray(points) - EYE).T
    scale = FOCAL * SIZE * FINE / depth
    margin = 1.2 * radius * scale + 1
    ends = (SIZE * FINE / 2 + scale * v for v in (down, right))
    spans = ((int(max((v - margin).min(), 0)), int(max((v + margin).max() + 1, 0))) for v in ends)
    return tuple(slice(*span) for span in spans)


def shade(normal, albedo, gloss):
    """Colours (N, 3) of lit points."""
    diffuse = np.maximum(normal @ LIGHT, 0)[:, None]
    shine = np.maximum(normal @ GLOSS, 0)[:, None] ** 24
    return albedo * (0.45 + 0.65 * diffuse) + gloss * shine


# ---------------------------------------------------------------- shapes
# A layer is (colour (H, W, 3), distance from the eye (H, W)); shapes draw where they are nearer.


def capsule(layer, start, end, radius, paint, gloss=0.25):
    """A rounded rod: the ray meets the ball that rolls on the axis nearest to where it enters."""
    box = window((start, end), radius)
    rays, axis, origin = RAYS[box], end - start, EYE - start
    ra, ro = rays @ axis.astype(np.float32), rays @ origin.astype(np.float32)
    aa, ao, oo = axis @ axis, axis @ origin, origin @ origin
    a, b = aa - ra**2 + 1e-9, aa * ro - ao * ra
    c = aa * oo - ao**2 - radius**2 * aa
    enter = (-b - np.sqrt(np.maximum(b**2 - a * c, 0))) / a
    s = np.clip((ao + enter * ra) / aa, 0, 1)  # of the ball's centre, from start to end
    b = ro - s * ra
    root = b**2 - (oo - 2 * s * ao + s**2 * aa - radius**2)
    enter = -b - np.sqrt(np.maximum(root, 0))
    seen = (root > 0) & (enter < layer[1][box])
    from_start = origin + enter[seen][:, None] * rays[seen]
    normal = (from_start - s[seen][:, None] * axis) / radius
    albedo = paint(from_start) if callable(paint) else paint
    layer[0][box][seen] = shade(normal, albedo, gloss)
    layer[1][box][seen] = enter[seen]


def block(layer, middle, half, angle, paint, is_round=False, gloss=0.1):
    """An upright box (half sizes (3,)) or tube about the middle, turned by the angle."""
    box, turn = window([middle], np.linalg.norm(half)), turned(angle)
    origin, rays = turn @ (EYE - middle), RAYS[box] @ turn.T.astype(np.float32)
    facing = -np.sign(rays)
    enter, leave = ((k * facing * half - origin) / rays for k in (1, -1))  # of three slabs
    if is_round:
        a, b = (rays[..., :2] ** 2).sum(-1), rays[..., :2] @ origin[:2]
        root = b**2 - a * (origin[:2] @ origin[:2] - half[0] ** 2)
        width = np.sqrt(np.maximum(root, 0))
        enter[..., 0] = enter[..., 1] = np.where(root > 0, (-b - width) / a, np.inf)
        leave[..., 0] = leave[..., 1] = (width - b) / a
    near, side = enter.max(-1), enter.argmax(-1)
    seen = (near < leave.min(-1)) & (near < layer[1][box])
    point = origin + near[seen][:, None] * rays[seen]
    normal = np.eye(3)[side[seen]] * facing[seen]
    if is_round:
        rim = np.concatenate((point[:, :2] / half[0], 0 * point[:, 2:]), 1)
        normal = np.where(side[seen][:, None] == 2, normal, rim)
    layer[0][box][seen] = shade(normal @ turn, paint(point), gloss)
    layer[1][box][seen] = near[seen]


def turned(angle):
    """The matrix (3, 3) from the world into axes turned about the vertical."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array(((cos, sin, 0), (-sin, cos, 0), (0, 0, 1)))


def shadows(points, segments, strength):
    """How much light (H, W, 1) is left at points (H, W, 3) below rods (start, end, radius)."""
    slope = LIGHT[:2] / LIGHT[2]

    def fall(p):  # down the light onto the table's top, as x + iy
        x, y = (p[..., i] - slope[i] * (p[..., 2] - TOP) for i in range(2))
        return np.complex64(x + 1j * y)

    ground, dark = fall(points), np.zeros(points.shape[:2], np.float32)
    for start, end, radius in segments:
        first, last = fall(start), fall(end)
        t = along(ground, first, last)
        soft = 0.015 + 0.12 * np.maximum(start[2] + t * (end[2] - start[2]) - TOP, 0)
        away = abs(ground - first - t * (last - first)) - radius
        dark = np.maximum(dark, np.clip(0.5 - away / (2 * soft), 0, 1) * 0.03 / (0.015 + soft))
    return 1 - strength * np.minimum(dark, 1)[..., None]


# ---------------------------------------------------------------- arm and scene
SHOULDER, LINK = np.array((0.10, -0.02, 0.42)), 0.43  # of two equal links; it stands on the floor
WRIST = 0.15  # how far above the fingertips the wrist is
DARK = np.array((0.16, 0.17, 0.20))


def joints(hand):
    """Elbow and wrist (3,) that bring the fingertips to the hand; the elbow is up and aside."""
    wrist = hand + (0, 0, WRIST)
    reach = wrist - SHOULDER
    ahead, aside = unit(reach), np.array((0, -0.9, 1))
    aside = unit(aside - ahead * (aside @ ahead))
    flex = np.sqrt(max(LINK**2 - reach @ reach / 4, 0))
    return SHOULDER + reach / 2 + flex * aside, wrist


def arm_rods(hand, opening, colours):
    """The arm as rods (start, end, radius, colour): foot, limbs, rings round them; opening 0..1."""
    skin, accent = colours
    elbow, wrist = joints(hand)
    ahead = unit((wrist - SHOULDER)[:2])
    across = np.array((-ahead[1], ahead[0], 0)) * (0.018 + 0.04 * opening)
    up, knuckle = np.array((0, 0, 0.01)), hand + (0, 0, 0.085)
    middle = (elbow + wrist) / 2
    yield SHOULDER - (0, 0, 0.4), SHOULDER, 0.075, DARK
    yield SHOULDER, elbow, 0.055, skin
    yield elbow, wrist, 0.042, skin
    yield wrist, knuckle, 0.036, DARK
    yield knuckle - across, knuckle + across, 0.022, accent
    for side in (across, -across):
        yield knuckle + side, hand + side + 1.4 * up, 0.017, DARK
    yield elbow - up, elbow + up, 0.066, accent
    yield middle - 0.2 * (wrist - elbow), middle + 0.1 * (wrist - elbow), 0.047, accent


def make_scene(rng):
    """What all clips of a seed share: the layer of the bare table, the two colours of the arm."""
    floor = hsv(rng.random(), 0.2, 0.42)
    fade = np.linspace(0.6, 1.1, SIZE * FINE)[:, None, None]
    layer = np.float32(RAYS * 0 + floor * fade), np.full(RAYS.shape[:2], 9, np.float32)
    half = np.array((*np.diff(TABLE, axis=0)[0] / 2, 0.02))
    block(layer, np.array((*TABLE.mean(0), TOP - 0.02)), half, 0, wood(rng, half), gloss=0.05)
    accent = hsv(rng.choice((0.0, 0.06, 0.45, 0.6)), 0.8, 0.75)
    return layer, (hsv(rng.random(), 0.05, 0.82), accent)


def wood(rng, half):
    """A paint for the table: planks of their own tones with grain along them."""
    base, tones = hsv(rng.uniform(0.06, 0.1), 0.45, 0.5), rng.uniform(0.85, 1.12, 9)
    noise = Image.fromarray(rng.normal(size=(10, 90)).astype(np.float32)).resize((256, 256))
    grain = np.asarray(noise)

    def paint(point):
        u, v = ((point[:, :2] / half[:2] + 1) / 2).clip(0, 0.999).T
        seam = np.where((9 * v) % 1 < 0.07, 0.75, 1)
        tone = tones[(9 * v).astype(int)] * seam
        return base * (tone + 0.06 * grain[(256 * u).astype(int), (256 * v).astype(int)])[:, None]

    return paint


def draw_thing(layer, thing, pose):
    """A thing with a band of its second colour across, which shows how it is turned."""
    (x, y, angle), radius, height = pose, thing["radius"], thing["height"]
    first, second = thing["colours"]
    middle, turn = np.array((x, y, TOP + height / 2)), turned(angle)

    def band(point):  # in the thing's own axes
        return np.where(abs(point[:, :1]) < 0.3 * radius, second, first)

    if thing["kind"] == "ball":
        lid = middle + (0, 0, 0.01)
        return capsule(layer, middle, lid, radius, lambda point: band(point @ turn.T))
    width = radius if thing["kind"] == "tube" else 0.85 * radius
    half = np.array((width, width, height / 2))
    return block(layer, middle, half, angle, band, thing["kind"] == "tube")


def draw_things(scene, things, pose):
    """The table with the things on it and their shadows: a layer."""
    colour, depth = (part.copy() for part in scene[0])
    feet = [np.array((x, y, TOP)) for x, y, _ in pose]
    rods = [
        (foot, foot + (0, 0, 0.8 * thing["height"]), 0.9 * thing["radius"])
        for foot, thing in zip(feet, things)
    ]
    colour *= coarse_shadows(depth, rods)
    for thing, place in zip(things, pose):
        draw_thing((colour, depth), thing, place)
    return colour, depth


def coarse_shadows(depth, rods):
    """Shadows of rods on the surface at that depth: soft, so one point per pixel is enough."""
    points = EYE + RAYS[::FINE, ::FINE] * depth[::FINE, ::FINE, None]
    light = shadows(points, rods, 0.65)
    return light.repeat(FINE, 0).repeat(FINE, 1)


def draw_arms(scene, positions, openings):
    """The arm alone in every frame of a clip: its layer, and the rods that cast its shadow."""
    arms = []
    for hand, opening in zip(positions, openings):
        layer = np.zeros_like(scene[0][0]), np.full_like(scene[0][1], np.inf)
        rods = list(arm_rods(hand, opening, scene[1]))
        for rod in rods:
            capsule(layer, *rod)
        arms.append((layer, [rod[:3] for rod in rods[1:-2]]))
    return arms


def draw_clip(scene, arms, things, poses):
    """All bytes (T, 64, 64, 3) of a clip; row 0 and column 0 are black as in the real set."""
    frames, drawn = np.zeros((len(poses), SIZE, SIZE, 3), np.uint8), None
    for t, ((arm, rods), pose) in enumerate(zip(arms, poses)):
        if drawn is None or not np.array_equal(pose, drawn):
            (table, depth), drawn = draw_things(scene, things, pose), pose
        colour = table * coarse_shadows(depth, rods)
        nearer = arm[1] < depth
        colour[nearer] = arm[0][nearer]
        pixels = sum(colour[i::FINE, j::FINE] for i in range(FINE) for j in range(FINE)) / FINE**2
        frames[t, 1:, 1:] = (255 * pixels.clip(0, 1) + 0.5)[1:, 1:]
    return frames
