"""How objects on land look. Each function paints one kind; see ``sprite.Canvas`` for the units."""

import torch
from torch import Tensor

from .distance import box, circle, polygon, segment, smooth_minimum, smoothstep, trapezoid
from .sprite import Canvas, stripes


def house(canvas: Canvas) -> None:
    x, y, side = canvas.x, canvas.y, canvas.light.side
    canvas.shadow(0.52, 0.07)
    canvas.fill(box(x + 0.24 * side, y - 0.84, 0.055, 0.13), canvas.lit(canvas.tint(0.45, 0.33, 0.30), 0.5 + 0 * x))
    wall = box(x, y - 0.29, 0.43, 0.30)
    eaves = 1 - 0.35 * smoothstep(0.47, 0.58, y)
    canvas.fill(wall, canvas.lit(_walls(canvas, 0.43, 0.58), 0.62 + 0.5 * x * side) * eaves)
    gable = trapezoid(x, y, 0.56, 0.92, 0.52, 0.30)
    rows = 0.84 + 0.16 * stripes((y - 0.56) / 0.06, canvas.pixel / 0.06)
    slate = canvas.tint(0.33, 0.27, 0.29) * rows
    canvas.fill(gable, canvas.lit(slate, 0.75 + 0.35 * x * side + 0.3 * (y - 0.7)))
    canvas.fill(segment(x, y, (-0.52, 0.56), (0.52, 0.56), 0.018), canvas.lit(canvas.tint(0.90, 0.86, 0.80), 0.35 + 0 * x))
    canvas.fill(box(x, y - 0.16, 0.085, 0.16), canvas.lit(canvas.tint(0.30, 0.20, 0.15), 0.4 + 0 * x))
    for at in (-0.25, 0.25):
        _window(canvas, at, 0.31, 0.075, 0.085)


def windmill(canvas: Canvas) -> None:
    x, y, side = canvas.x, canvas.y, canvas.light.side
    canvas.shadow(0.34, 0.06)
    tower = trapezoid(x, y, 0.0, 0.66, 0.235, 0.145)
    width = 0.235 - 0.136 * y
    canvas.fill(tower, canvas.lit(_walls(canvas, width, 0.66), (0.55 + 0.55 * x / width * side).clamp(0, 1)))
    cap = torch.maximum(circle(x, y - 0.65, 0.165), 0.65 - y)
    canvas.fill(cap, canvas.lit(canvas.tint(0.34, 0.27, 0.28), 0.65 + 2.0 * x * side))
    canvas.fill(box(x, y - 0.085, 0.055, 0.085), canvas.lit(canvas.tint(0.30, 0.20, 0.15), 0.4 + 0 * x))
    _window(canvas, 0.0, 0.36, 0.045, 0.055)
    # Four sails of laths around the hub.
    turn = 0.25 + 1.07 * canvas.varied[:, 4:5]
    across, up = x, y - 0.66
    u, v = across * turn.cos() + up * turn.sin(), up * turn.cos() - across * turn.sin()
    cloth = canvas.lit(canvas.tint(0.95, 0.92, 0.84), 0.75 + 0 * x)
    wood = canvas.lit(canvas.tint(0.36, 0.25, 0.18), 0.6 + 0 * x)
    for along, sideways in ((u, v), (-u, -v), (v, -u), (-v, u)):
        blade = box(along - 0.235, sideways - 0.036, 0.145, 0.036)
        laths = 0.88 + 0.12 * stripes(along / 0.045, canvas.pixel / 0.045)
        canvas.fill(blade, cloth * laths)
    canvas.fill(torch.minimum(box(u, v, 0.385, 0.011), box(v, u, 0.385, 0.011)), wood)
    canvas.fill(circle(across, up, 0.035), wood)


def lighthouse(canvas: Canvas) -> None:
    x, y, side, lamps = canvas.x, canvas.y, canvas.light.side, canvas.light.lamps
    canvas.shadow(0.26, 0.06)
    rock = torch.maximum(smooth_minimum(circle(x + 0.10, y + 0.03, 0.12), circle(x - 0.12, y + 0.04, 0.12), 0.05), -0.03 - y)
    canvas.fill(rock, canvas.lit(canvas.tint(0.46, 0.45, 0.48), 0.45 + 1.5 * x * side + 2 * y))
    width = 0.175 - 0.085 * y
    band = stripes((y - 0.03) / 0.14, canvas.pixel / 0.14)
    albedo = canvas.striped(band)
    canvas.fill(trapezoid(x, y, 0.03, 0.74, 0.172, 0.112), canvas.lit(albedo, (0.52 + 0.60 * x / width * side).clamp(0, 1.1)))
    _window(canvas, 0.0, 0.31, 0.024, 0.035)
    canvas.fill(box(x, y - 0.745, 0.155, 0.018), canvas.lit(canvas.tint(0.28, 0.28, 0.33), 0.6 + x * side * 2))
    glass = box(x, y - 0.825, 0.075, 0.065)
    canvas.fill(glass, canvas.tint(0.62, 0.74, 0.82) * (1 - lamps) + canvas.tint(1.0, 0.90, 0.58) * lamps)
    canvas.fill(torch.minimum(box(x, y - 0.825, 0.008, 0.065), box(x.abs() - 0.075, y - 0.825, 0.008, 0.065)), canvas.tint(0.2, 0.2, 0.24))
    dome = torch.maximum(circle(x, y - 0.875, 0.105), 0.885 - y)
    canvas.fill(dome, canvas.lit(canvas.tint(0.36, 0.22, 0.22), 0.6 + 2.5 * x * side))
    far = (x**2 + (y - 0.83) ** 2).sqrt()
    canvas.glow((1 - far / 0.22).clamp(0, 1) ** 2.5 * 0.85 * lamps, canvas.tint(1.0, 0.82, 0.45))
    beam = smoothstep(0.055 + 0.17 * x.abs(), 0.0, (y - 0.83).abs()) * (1 - x.abs() / 0.58).clamp(0, 1) ** 2
    canvas.glow(beam * 0.45 * lamps, canvas.tint(1.0, 0.86, 0.52))


def tent(canvas: Canvas) -> None:
    x, y, side, lamps = canvas.x, canvas.y, canvas.light.side, canvas.light.lamps
    canvas.shadow(0.54, 0.07)
    outline = polygon(x, y, [(-0.53, 0.0), (0.53, 0.0), (0.03, 0.93), (-0.03, 0.93)])
    fan = x / (0.98 - y).clamp(min=0.05)  # runs from the top to the foot
    band = stripes(fan / 0.155 + 0.5, canvas.pixel / 0.155 / (0.98 - y).clamp(min=0.2))
    albedo = canvas.striped(band)
    fold = 1 - 0.10 * torch.sin(fan * 20) ** 2 * (1 - canvas.marked)
    cloth = canvas.lit(albedo, (0.55 + 0.85 * fan * side).clamp(0.05, 1.1)) * fold
    cloth = cloth + 0.34 * lamps * albedo * canvas.tint(1.0, 0.80, 0.55) * smoothstep(0.75, 0.05, y) * smoothstep(0.5, 0.1, fan.abs())
    canvas.fill(outline, cloth)
    canvas.fill(segment(x, y, (0.0, 0.90), (0.0, 1.0), 0.012), canvas.lit(canvas.tint(0.35, 0.26, 0.2), 0.5 + 0 * x))
    opening = polygon(x, y, [(-0.15, 0.0), (0.15, 0.0), (0.0, 0.58)])
    inside = canvas.tint(0.16, 0.12, 0.14) * (1 - lamps) + canvas.tint(1.0, 0.74, 0.34) * lamps
    canvas.fill(opening, inside * (0.75 + 0.5 * (0.5 - y)))
    flap = polygon(x * side, y, [(-0.16, 0.0), (-0.10, 0.0), (0.0, 0.58), (-0.03, 0.55)])
    canvas.fill(flap, canvas.lit(canvas.colour, 0.9 + 0 * x))


def tree(canvas: Canvas) -> None:
    x, y, side, varied = canvas.x, canvas.y, canvas.light.side, canvas.varied
    canvas.shadow(0.40, 0.07)
    trunk = trapezoid(x, y, 0.0, 0.42, 0.055, 0.035)
    trunk = torch.minimum(trunk, trapezoid(x, y, 0.0, 0.06, 0.095, 0.05))
    canvas.fill(trunk, canvas.lit(canvas.tint(0.38, 0.27, 0.20), (0.5 + 7 * x * side).clamp(0, 1)))
    # A crown of five round clumps, each brighter towards the sun.
    crown, light = None, 0
    clumps = ((-0.20, 0.50, 0.19), (0.20, 0.50, 0.19), (-0.12, 0.72, 0.20), (0.13, 0.70, 0.21), (0.0, 0.58, 0.24))
    for k, (at_x, at_y, radius) in enumerate(clumps):
        shift = 0.05 * (varied[:, k % 3 + 3 : k % 3 + 4] - 0.5)
        u, v = x - at_x - shift, y - at_y + shift
        clump = circle(u, v, radius)
        crown = clump if crown is None else smooth_minimum(crown, clump, 0.03)
        lit = ((u * side * 0.8 + v) / radius * 0.42 + 0.5).clamp(0, 1) * smoothstep(0.03, -0.05, clump)
        light = torch.maximum(light, lit) if k else lit
    leaves = torch.sin(x * 47 + 5 * torch.sin(y * 29)) * torch.sin(y * 41 + 4 * torch.sin(x * 23))
    facing = light * 0.95 + 0.05 + 0.16 * leaves
    canvas.fill(crown + 0.010 * leaves, canvas.lit(canvas.colour, facing) * (0.80 + 0.22 * light))


def _window(canvas: Canvas, x: float, y: float, across: float, up: float) -> None:
    """A window with a white frame and a cross; lit windows shine on what is around them."""
    u, v = canvas.x - x, canvas.y - y
    frame = canvas.lit(canvas.tint(0.95, 0.93, 0.88), 0.5 + 0 * u)
    canvas.fill(box(u, v, across + 0.018, up + 0.018), frame)
    canvas.fill(box(u, v, across, up), canvas.window_light)
    canvas.fill(torch.minimum(box(u, v, 0.008, up), box(u, v, across, 0.008)), frame)
    far = (box(u, v, across, up).clamp(min=0) + 0.0) / 0.09
    canvas.glow(torch.exp(-far) * 0.16 * canvas.light.lamps, canvas.tint(1.0, 0.72, 0.34))


def _walls(canvas: Canvas, across, top: float) -> Tensor:
    """The colour of a wall ``top`` high and ``across`` wide on either side: boards between dark posts, or blocks of stone: (M, 3, S, S)."""
    x, y, pixel = canvas.x, canvas.y, canvas.pixel
    board = stripes(y / 0.07, pixel / 0.07)
    boards = canvas.colour * (0.84 + 0.16 * board)
    thick = 0.08 * across
    posts = (x.abs() - across + thick).abs() - thick
    beams = torch.minimum(posts, torch.minimum((y - 0.03).abs(), (y - 0.52 * top).abs()) - thick)
    beam = (0.5 - beams / pixel).clamp(0, 1)
    wooden = boards + (canvas.tint(0.34, 0.22, 0.15) - boards) * beam

    course = (y / 0.125).floor()
    shifted = x / 0.20 + 0.5 * course - (x / 0.20 + 0.5 * course).floor()
    within = torch.minimum((shifted - 0.5).abs() * -0.20 + 0.10, 0.0625 - ((y / 0.125 - course) - 0.5).abs() * 0.125)  # from the joints
    joint = (0.5 - (within - 0.016) / pixel).clamp(0, 1)
    number = ((x / 0.20 + 0.5 * course).floor() * 0.37 + course * 0.59 + 10).frac()
    blocks = canvas.colour * (0.76 + 0.30 * number)
    stone = blocks + (canvas.tint(0.80, 0.78, 0.74) * (0.35 + 0.5 * canvas.colour.mean(1, keepdim=True)) - blocks) * joint
    return wooden + (stone - wooden) * canvas.marked
