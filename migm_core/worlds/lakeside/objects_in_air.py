"""How objects of the sky look. Each function paints one kind; see ``sprite.Canvas`` for the units."""

import torch

from .distance import box, circle, ellipse, polygon, segment, smooth_minimum, smoothstep
from .sprite import Canvas, stripes


def balloon(canvas: Canvas) -> None:
    x, y, pixel = canvas.x, canvas.y, canvas.pixel
    for side in (-1, 1):
        canvas.fill(segment(x, y, (0.055 * side, 0.12), (0.14 * side, 0.30), 0.006), canvas.lit(canvas.tint(0.35, 0.26, 0.20), 0.5 + 0 * x))
    basket = box(x, y - 0.065, 0.075, 0.065)
    weave = 0.75 + 0.25 * stripes(y / 0.026, pixel / 0.026)
    canvas.fill(basket, canvas.lit(canvas.tint(0.56, 0.36, 0.20) * weave, 0.5 + 3 * x * canvas.light.side))

    radius = 0.36
    bulb = circle(x, y - 0.64, radius)
    skirt = polygon(x, y, [(-0.10, 0.22), (0.10, 0.22), (0.31, 0.50), (-0.31, 0.50)])
    envelope = smooth_minimum(bulb, skirt, 0.08)
    # Gores run from the crown to the mouth: their width follows the outline.
    up = (y - 0.64) / radius
    width = torch.where(up > 0, (1 - up.clamp(0, 0.999) ** 2).sqrt(), 1 - 0.72 * (up.clamp(-1.17, 0) / -1.17) ** 1.6)
    turn = torch.asin((x / (radius * width.clamp(min=0.05))).clamp(-0.999, 0.999)) * 2.55 + 0.5
    gore = stripes(turn, (pixel * 2.55 / (radius * width.clamp(min=0.15))))
    albedo = canvas.striped(gore)
    seams = 1 - 0.10 * (1 - ((turn - turn.round()).abs() / 0.14).clamp(0, 1)) * (1 - canvas.marked)
    facing = (0.52 + 0.62 * (x / radius * canvas.light.side * 0.75 + up * 0.55)).clamp(0, 1.1)
    skin = canvas.lit(albedo, facing) * seams
    skin = skin + 0.30 * canvas.light.lamps * albedo * canvas.tint(1.0, 0.86, 0.66) * smoothstep(0.9, 0.0, (up + 0.5).abs())
    shine = torch.exp(-((x / radius - 0.42 * canvas.light.side) ** 2 + (up - 0.45) ** 2) / 0.05)
    canvas.fill(envelope, skin + 0.22 * canvas.light.key * shine)


def airship(canvas: Canvas) -> None:
    x, y, pixel = canvas.x * canvas.heading, canvas.y - 0.52, canvas.pixel
    side = canvas.light.side * canvas.heading
    dark = canvas.lit(canvas.colour * 0.62, 0.5 + 0 * x)
    for sign in (-1, 1):
        canvas.fill(polygon(x, y * sign, [(-0.54, 0.06), (-0.34, 0.06), (-0.36, 0.17), (-0.54, 0.24)]), dark)
    hull = ellipse(x, y, 0.52, 0.205)
    gondola = box(x - 0.06, y + 0.235, 0.13, 0.045)
    canvas.fill(gondola - 0.012, canvas.lit(canvas.tint(0.40, 0.36, 0.36), 0.6 + 0 * x))
    panes = box(x - 0.06, y + 0.232, 0.115, 0.02)
    canvas.fill(panes, canvas.window_light)
    # Bands around the hull, bent with its roundness.
    round_up = (y / 0.205).clamp(-1, 1)
    band = stripes((x - 0.04 * round_up**2) / 0.125 + 0.5, pixel / 0.125)
    albedo = canvas.striped(band)
    facing = (0.50 + 0.62 * round_up + 0.35 * x * side).clamp(0, 1.15)
    ribs = 1 - 0.07 * (1 - ((round_up * 2.2 - (round_up * 2.2).round()).abs() / 0.12).clamp(0, 1))
    shine = torch.exp(-(((round_up - 0.55) / 0.22) ** 2)) * smoothstep(0.5, 0.2, x.abs())
    canvas.fill(hull, canvas.lit(albedo, facing) * ribs + 0.18 * canvas.light.key * shine)
    fin = segment(x, y, (-0.56, 0.0), (-0.36, 0.0), 0.018)
    canvas.fill(fin, dark)


def kite(canvas: Canvas) -> None:
    y, pixel = canvas.y, canvas.pixel
    lean = (canvas.varied[:, 4:5] - 0.5) * 0.35
    x = canvas.x - lean * (y - 0.6)
    # The tail hangs in a wave, with bows.
    sway = 0.07 * torch.sin((0.34 - y) * 17 + 6.28 * canvas.varied[:, 5:6]) * ((0.36 - y) / 0.2).clamp(0, 1)
    tail = torch.maximum((x - sway).abs() - 0.010, torch.maximum(y - 0.36, 0.02 - y))
    canvas.fill(tail, canvas.lit(canvas.tint(0.94, 0.92, 0.88), 0.6 + 0 * x))
    for at in (0.06, 0.20):
        bend = 0.07 * torch.sin((0.34 - y.new_tensor(at)) * 17 + 6.28 * canvas.varied[:, 5:6]) * min(1.0, (0.36 - at) / 0.2)
        bow = (x - bend).abs()
        canvas.fill(torch.maximum((y - at).abs() - 0.25 * bow - 0.012, bow - 0.065), canvas.lit(canvas.colour, 0.7 + 0 * x))
    left = torch.where(x * canvas.light.side > 0, 0.85, 0.35)
    facing = left + 0.25 * (y > 0.68).float()
    band = stripes((y - 0.68) / 0.105 + 0.5, pixel / 0.105)
    albedo = canvas.striped(band)
    sail = polygon(x, y, [(0, 0.34), (0.29, 0.68), (0, 1.0), (-0.29, 0.68)])
    canvas.fill(sail, canvas.lit(albedo, facing))
    spar = torch.minimum(torch.maximum(x.abs() - 0.009, sail), torch.maximum((y - 0.68).abs() - 0.009, sail))
    canvas.fill(spar, canvas.lit(canvas.tint(0.40, 0.28, 0.20), 0.5 + 0 * x))
