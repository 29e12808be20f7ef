"""A procedural dancer in a room: choreography, frames and the matching OpenPose pictures.

Key poses -> angles over time -> joints on the screen -> pictures; all pure functions of a seed.
Screen lengths are in frame heights, body lengths in statures of the dancer.
"""

from colorsys import hsv_to_rgb
from itertools import cycle

import numpy as np
from PIL import Image
from video.skeleton import KEYPOINTS, paint

# ---------------------------------------------------------------- choreography
FPS = 30
BLEND = 15  # frames over which neighbouring key poses melt into each other
SIDED = {"hip", "knee", "spread", "swing", "wing", "elbow"}  # each of these has _r and _l


def pose(text):
    """Read "tilt=-6 wing_r=150 knee=8": without _r or _l a limb's angle holds for both sides."""
    angles = {}
    for name, angle in (word.split("=") for word in text.split()):
        sides = ("_r", "_l") if name in SIDED else ("",)
        angles |= {name + side: float(angle) for side in sides}
    return angles


# x: place on the screen from the middle; size: stature on the screen; lift: height of a leap;
# the rest are degrees. yaw 0 faces the camera, 90 the right edge; wing raises an arm sideways.
REST = pose("x=0 size=.75 yaw=0 lift=0 lean=2 tilt=0 twist=0 nod=0 look=0")
REST |= pose("hip=4 knee=8 spread=5 swing=4 wing=12 elbow=18")

# Figures end with ";", key poses with "|": seconds to get there, change from REST ("turn" of yaw).
SCORE = """
.7 wing_r=150 elbow_r=20 | .5 wing_r=140 elbow_r=85 tilt=-6 | .5 wing_r=150 elbow_r=15 ;
.9 wing=165 elbow=15 | .6 wing=165 elbow=25 tilt=22 | .9 wing=160 elbow=25 tilt=-22 ;
1.1 hip=95 knee=115 spread=14 swing=50 elbow=40 lean=38 nod=-20 | 1 wing=85 ;
.9 lean=72 nod=25 wing_r=70 elbow_l=70 | .3 lean=70 ;
.6 hip=48 knee=75 swing=-30 lean=22 | .35 hip_r=75 hip_l=-38 knee_l=18 wing=85 lift=.36 |
    .35 hip=48 knee=75 swing=-30 lean=22 | .5 wing=85 ;
.7 wing=85 | .6 wing=85 elbow=15 hip_r=88 knee_r=6 lean=-14 | .7 wing=85 ;
.8 hip_r=80 knee_r=82 hip_l=-28 swing_l=90 swing_r=-35 | .7 hip_r=80 knee_r=82 hip_l=-28 wing=130 ;
.9 lean=55 nod=-28 hip_l=-48 swing_r=150 | .7 lean=55 nod=-28 hip_l=-48 knee_l=4 wing=85 elbow=15 ;
.9 wing=75 elbow=70 turn=90 | .9 wing=80 elbow=60 turn=150 | .7 wing=60 elbow=60 turn=120 ;
.7 swing=85 elbow=90 twist=30 | .6 swing=85 elbow_l=90 | .7 swing=85 elbow=90 twist=-30 ;
.8 spread=32 wing=45 hip_r=38 knee_r=45 | .8 spread=32 wing=120 elbow=60 hip_l=38 knee_l=45 tilt=-14
"""
FIGURES = [
    [(float(key.split()[0]), pose(key.split(maxsplit=1)[1])) for key in figure.split("|")]
    for figure in SCORE.split(";")
]
CARRIAGES = [pose(arms) for arms in ("", "", "wing=85", "wing_r=150", "wing=40 elbow=95")]
FACINGS = (0, 0, 35, -35, 90, -90, 150, -150, 180)


def mirrored(angles):
    """The same pose with right and left exchanged."""
    other, sign = {"_r": "_l", "_l": "_r"}, {"tilt": -1, "twist": -1, "look": -1, "turn": -1}
    return {n[:-2] + other.get(n[-2:], n[-2:]): a * sign.get(n, 1) for n, a in angles.items()}


def travel(rng, here, x, size):
    """Key poses that turn to a new place and walk there from the pose here."""
    across, nearer = (x - here["x"]) / size, FOCAL / here["size"] - FOCAL / size
    seconds = max(0.8, np.hypot(across, nearer) / rng.uniform(0.55, 0.85))
    heading = {"yaw": np.degrees(np.arctan2(across, nearer))}
    arms = CARRIAGES[rng.integers(len(CARRIAGES))]
    yield rng.uniform(0.4, 0.6), REST | {"x": here["x"], "size": here["size"]} | heading
    yield seconds, REST | arms | {"x": x, "size": size} | heading


def perform(rng, here, figure, facing):
    """Key poses of one figure danced on the spot, perhaps mirrored, at a tempo of its own."""
    mirror, tempo, reach = rng.random() < 0.5, rng.uniform(1.1, 1.4), rng.uniform(0.8, 1.05)
    place = {"x": here["x"], "size": here["size"], "yaw": facing}
    for seconds, change in [*figure, (0.4, {})]:
        change = mirrored(change) if mirror else change
        place["yaw"] += change.get("turn", 0)
        limbs = {name: reach * change.get(name, rest) for name, rest in REST.items()}
        yield seconds * tempo, limbs | place


def choreograph(rng, length):
    """Continuous dancing, place after place, figure after figure: {angle or place: (length,)}."""
    places = cycle(rng.permutation(np.linspace(-0.8, 0.8, 8)))
    figures, facings = cycle(rng.permutation(len(FIGURES))), cycle(rng.permutation(FACINGS))
    moves = [(0, REST | {"x": next(places), "size": rng.uniform(0.68, 0.84)})]
    while sum(seconds for seconds, _ in moves) < length / FPS + 1:
        x, size = next(places) + rng.uniform(-0.08, 0.08), rng.uniform(0.68, 0.84)
        moves += travel(rng, moves[-1][1], x, size)
        moves += perform(rng, moves[-1][1], FIGURES[next(figures)], next(facings))
    return add_life(blend(moves, length))


def blend(moves, length):
    """Key poses -> curves, smoothed by averaging: a mean of poses a body can do is one too."""
    t = (np.arange(length + BLEND - 1) - BLEND // 2) / FPS
    times = np.cumsum([seconds for seconds, _ in moves])
    window = np.hanning(BLEND + 2)[1:-1]
    keys = {name: [key[name] for _, key in moves] for name in REST}
    keys["yaw"] = np.unwrap(keys["yaw"], period=360)  # turn the short way round
    curves = {name: np.interp(t, times, keys[name]) for name in keys}
    return {name: np.convolve(curves[name], window / window.sum(), "valid") for name in curves}


def add_life(curves):
    """Swing legs and arms in step with the distance walked ahead; breathe and sway all the time."""
    yaw, size = np.radians(curves["yaw"]), curves["size"]
    across, nearer = np.gradient(curves["x"]) / size, np.gradient(-FOCAL / size)
    walked = across * np.sin(yaw) + nearer * np.cos(yaw)  # statures per frame
    phase = np.cumsum(walked) * np.pi / 0.48  # a step is 0.48 statures long
    gain = np.clip(np.abs(walked) * FPS / 0.5, 0, 1)
    beat = 2 * np.pi * np.arange(len(yaw)) / FPS
    breath = 4 + 4 * np.sin(0.9 * beat)
    curves["twist"] += 6 * gain * np.sin(phase)
    curves["tilt"] += 2 * np.sin(0.7 * beat)
    curves["look"] += 12 * np.sin(0.45 * beat)
    for side, start in (("_r", 0), ("_l", np.pi)):
        step = gain * np.sin(phase + start)
        passing = (
            np.clip(np.cos(phase + start + 0.4), 0, 1) ** 2
        )  # the knee flexes as one leg passes the other
        curves["hip" + side] += 28 * step + breath
        curves["knee" + side] += 55 * gain * passing + 2 * breath
        curves["swing" + side] -= 24 * step
        curves["wing" + side] += 3 * np.sin(0.8 * beat)
    return curves


# ---------------------------------------------------------------- angles -> joints on the screen
HORIZON, SKIRTING = 0.45, 0.76  # on the screen: the camera's height, where wall meets floor
EYE_LEVEL, FOCAL = (
    0.6,
    2.9,
)  # camera: height above the floor; s high on the screen is FOCAL / s away

NAMES = *KEYPOINTS, *"hand_r hand_l toe_r toe_l face hair".split()  # these only help to draw
INDEX = {name: i for i, name in enumerate(NAMES)}


def rotation(axis, degrees):
    """(T,) angles about body axis 0 (to the left), 1 (up) or 2 (forward) -> (T, 3, 3)."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.tile(np.eye(3), (len(degrees), 1, 1))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix[:, a, a], matrix[:, b, b], matrix[:, a, b], matrix[:, b, a] = cos, cos, -sin, sin
    return matrix


def body_3d(c):
    """Forward kinematics of curves c -> joints (J, T, 3): right on the screen, up, nearer."""
    pelvis = rotation(1, c["yaw"])
    chest = pelvis @ rotation(0, c["lean"]) @ rotation(2, -c["tilt"]) @ rotation(1, c["twist"])
    skull = chest @ rotation(1, c["look"]) @ rotation(0, c["nod"])
    neck = chest @ (0, 0.30, 0)
    head = neck + skull @ (0, 0.105, 0.01)
    body = {"neck": neck, "nose": head + skull @ (0, -0.01, 0.07)}
    body |= {"face": head + skull @ (0, -0.005, 0.014), "hair": head + skull @ (0, 0.016, -0.014)}
    for side, out in (("_r", -1), ("_l", 1)):
        limbs = arm_3d(c, chest, neck, side, out) | leg_3d(c, pelvis, side, out)
        eye, ear = (0.026 * out, 0.014, 0.056), (0.056 * out, 0.002, 0)
        limbs |= {"eye": head + skull @ eye, "ear": head + skull @ ear}
        body |= {name + side: point for name, point in limbs.items()}
    return np.stack([body[name] for name in INDEX])


def arm_3d(c, chest, neck, side, out):
    """Shoulder to hand; the elbow folds forwards when the arm hangs and inwards overhead."""
    wing = out * c["wing" + side]
    upper = chest @ rotation(0, -c["swing" + side]) @ rotation(2, wing) @ rotation(1, wing / 2)
    fore = upper @ rotation(0, -c["elbow" + side])
    shoulder = neck + chest @ (0.106 * out, -0.03, 0)
    elbow = shoulder + upper @ (0, -0.17, 0)
    wrist, hand = elbow + fore @ (0, -0.15, 0), elbow + fore @ (0, -0.20, 0)
    return {"shoulder": shoulder, "elbow": elbow, "wrist": wrist, "hand": hand}


def leg_3d(c, pelvis, side, out):
    """Hip to toe; the knee folds backwards only, the ankle gives half of what keeps it flat."""
    thigh = pelvis @ rotation(0, -c["hip" + side]) @ rotation(2, out * c["spread" + side])
    shin = thigh @ rotation(0, c["knee" + side])
    foot = shin @ rotation(0, 0.5 * (c["hip" + side] - c["knee" + side]))
    hip = pelvis @ (0.058 * out, 0, 0)
    knee = hip + thigh @ (0, -0.245, 0)
    ankle = knee + shin @ (0, -0.235, 0)
    return {"hip": hip, "knee": knee, "ankle": ankle, "toe": ankle + foot @ (0, -0.03, 0.10)}


def dance(rng, length):
    """One take: joints (length, J, 3) as x, y on the screen and nearness; stature (length,)."""
    curves = choreograph(rng, length)
    body = body_3d(curves)  # (J, T, 3)
    body -= support(body, curves["lift"])
    x, size = curves["x"], curves["size"]
    screen = x + size * body[..., 0], HORIZON + size * (EYE_LEVEL - body[..., 1]), body[..., 2]
    return np.stack(screen, -1).swapaxes(0, 1), size


def support(body, lift):
    """The point (T, 3) of the body (J, T, 3) that stands on the floor: mostly the lower foot."""
    feet = body[[INDEX["ankle_r"], INDEX["ankle_l"]]] - (0, 0.05, 0)
    toes = body[[INDEX["toe_r"], INDEX["toe_l"]]] - (0, 0.02, 0)
    lowest = np.minimum(feet[..., 1], toes[..., 1]).min(0)
    weight = np.exp((lowest - feet[..., 1]) / 0.08)[..., None]
    point = (weight * feet).sum(0) / weight.sum(0)
    point[:, 1] = lowest - lift
    return point


# ---------------------------------------------------------------- drawing
# Parts, * for right and left: first end, second end (a sheet has two corners at each end), radius
# at both ends, material, how much nearer the part counts in the order of painting.
TABLE = """
neck                   face           0.034 0.034 skin  0
face                   face           0.058 0.058 skin  0.02
hair                   hair           0.066 0.066 hair  0.02
shoulder_r+shoulder_l  hip_r+hip_l    0.042 0.050 shirt 0
hip_r+hip_l            hip_r+hip_l    0.056 0.056 legs  0
hip_r+hip_l            knee_r+knee_l  0.060 0.062 skirt 0.09
shoulder_*             elbow_*        0.044 0.034 shirt 0.05
elbow_*                wrist_*        0.030 0.024 skin  0.05
wrist_*                hand_*         0.026 0.030 skin  0.06
hip_*                  knee_*         0.060 0.043 legs  0.01
knee_*                 ankle_*        0.043 0.028 legs  0.01
ankle_*                toe_*          0.033 0.024 shoes 0.02
"""


def read_parts(table):
    """Rows of the table -> (joints (2, 2): end, corner; radii (2,); material; nearness)."""
    for row in table.strip().splitlines():
        for side in "rl" if "*" in row else "r":
            *ends, r0, r1, material, nearer = row.replace("*", side).split()
            corners = [[INDEX[name] for name in (end.split("+") * 2)[:2]] for end in ends]
            yield np.array(corners), np.array((float(r0), float(r1))), material, float(nearer)


PARTS = list(read_parts(TABLE))


def draw_frame(joints, stature, scene):
    """The dancer with joints (J, 3) in a scene (background, colours) -> (H, 2H, 3) in 0..1."""
    picture, colours = scene[0].copy(), scene[1]
    height, size = len(picture), len(picture) * stature
    points = (joints[:, 0] + 1 + 1j * joints[:, 1]) * height
    y, x = np.ogrid[0.5:height, 0.5 : 2 * height]
    across = (x - points[INDEX["neck"]].real) / (0.16 * size)
    away = (y - HORIZON * height - EYE_LEVEL * size) / (0.03 * size)
    picture *= 1 - 0.45 * np.exp(-(across**2) - away**2)[..., None]  # a soft shadow on the floor
    nearness = [joints[corners, 2].mean() + nearer for corners, _, _, nearer in PARTS]
    for i in np.argsort(nearness, kind="stable"):
        (start, end), radii, material, _ = PARTS[i]
        if material in colours:
            paint(picture, points[start], points[end], radii * size, colours[material])
    return np.clip(picture, 0, 1)


FACE = {0, 14, 15, 16, 17}  # nose, eyes, ears: a detector misses them on a head turned away


def keypoints(joints, height):
    """The 18 keypoints of joints (J, 3) in a picture of a height: x and y in pixels, confidence."""
    behind = joints[:18, 2] < joints[INDEX["face"], 2] - 0.03
    seen = [not (k in FACE and hidden) for k, hidden in enumerate(behind)]
    return np.stack([(joints[:18, 0] + 1) * height, joints[:18, 1] * height, seen], -1)


def hsv(hue, saturation, value):
    """RGB (3,) of a colour; the hue goes from red round to red at 1."""
    return np.array(hsv_to_rgb(hue, saturation, value))


def make_scene(rng, height):
    """Background (H, 2H, 3) and colours of the dancer: dark clothes before a bright room."""
    hue = rng.random()
    colours = {"shirt": hsv(hue, 0.75, 0.42), "legs": hsv(hue + 0.4, 0.35, 0.17)}
    colours |= {"shoes": hsv(hue + 0.7, 0.8, 0.4), "hair": hsv(0.06, 0.6, rng.uniform(0.08, 0.25))}
    colours["skin"] = hsv(0.06, rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.85))
    if rng.random() < 0.5:
        colours["skirt"] = hsv(hue + rng.uniform(0.3, 0.7), 0.6, 0.3)
    return furnish(rng, height), colours


def furnish(rng, height):
    """A lit wall and floor with a door, a window and a picture, antialiased by supersampling."""
    fine = 3 * height
    y, x = np.ogrid[0 : 1 : fine * 1j, -1 : 1 : fine * 2j]
    wall, floor = hsv(rng.random(), 0.12, 0.84), hsv(rng.uniform(0.06, 0.11), 0.25, 0.7)
    plank = np.floor(4 * x / (np.maximum(y, SKIRTING) - HORIZON)).astype(int) % 29
    boards = floor * rng.uniform(0.9, 1.08, 29)[plank][..., None]
    room = np.where(y[..., None] > SKIRTING, boards, wall * (1.05 - 0.2 * y[..., None]))
    for left, right, top, bottom, colour in furniture(rng):
        room[(left < x) & (x < right) & (top < y) & (y < bottom)] = colour
    lamps = sum(np.exp(-(((x - at) / 0.5) ** 2) - ((y + 0.05) / 0.5) ** 2) for at in (-0.5, 0.55))
    grain = Image.fromarray(rng.normal(size=(48, 96)).astype(np.float32)).resize((2 * fine, fine))
    room *= (0.85 + 0.25 * lamps - 0.1 * x**2 + 0.015 * np.asarray(grain))[..., None]
    return np.clip(room, 0, 1).reshape(height, 3, 2 * height, 3, 3).mean((1, 3))


def furniture(rng):
    """Rectangles (left, right, top, bottom, colour): frames, what is in them, the window's bar."""
    wood, sky, art = hsv(0.08, 0.4, 0.7), hsv(0.57, 0.15, 0.95), hsv(rng.random(), 0.5, 0.75)
    door, window, frame = rng.permutation([-0.62, 0.02, 0.62]) + rng.uniform(-0.06, 0.06, 3)
    things = ((door, 0.14, 0.2, SKIRTING, wood), (window, 0.19, 0.14, 0.5, sky))
    for middle, half, top, bottom, colour in (*things, (frame, 0.14, 0.2, 0.44, art)):
        yield middle - half, middle + half, top, bottom, 0.7 * wood
        yield middle - half + 0.02, middle + half - 0.02, top + 0.02, bottom - 0.02, colour
    yield window - 0.01, window + 0.01, 0.14, 0.5, 0.7 * wood
