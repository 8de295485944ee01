"""How objects on the water look. Each function paints one kind; see ``sprite.Canvas`` for the units."""

import torch

from .distance import circle, ellipse, polygon, segment, smooth_minimum, smoothstep
from .sprite import Canvas, stripes


def sailboat(canvas: Canvas) -> None:
    heading = canvas.heading
    x, y, side = canvas.x * heading, canvas.y, canvas.light.side * heading
    band = stripes((y - 0.2) / 0.13, canvas.pixel / 0.13)
    albedo = canvas.striped(band)
    belly = smoothstep(-0.1, 0.42, x)
    canvas.fill(segment(x, y, (-0.03, 0.12), (-0.03, 1.0), 0.013), canvas.lit(canvas.tint(0.40, 0.28, 0.20), 0.5 + 0 * x))
    main = torch.maximum(polygon(x, y, [(0.0, 0.22), (0.42, 0.22), (0.0, 0.97)]), circle(x + 0.62, y - 0.30, 1.06))
    canvas.fill(main, canvas.lit(albedo, 0.70 + 0.35 * side * (belly - 0.4) + 0.2 * (y - 0.5)))
    jib = polygon(x, y, [(-0.40, 0.22), (-0.06, 0.22), (-0.06, 0.84)])
    canvas.fill(jib, canvas.lit(albedo, 0.55 - 0.5 * side * (x + 0.2) + 0.2 * (y - 0.5)))
    hull = torch.maximum(polygon(x, y, [(-0.30, -0.02), (0.30, -0.02), (0.46, 0.19), (-0.46, 0.19)]), -0.01 - y)
    wood = canvas.tint(0.50, 0.30, 0.18) * (0.85 + 0.15 * stripes(y / 0.05, canvas.pixel / 0.05))
    canvas.fill(hull, canvas.lit(wood, 0.45 + 0.7 * x * side + 1.2 * y))
    canvas.fill(segment(x, y, (-0.45, 0.185), (0.45, 0.185), 0.016), canvas.lit(canvas.tint(0.95, 0.92, 0.86), 0.6 + 0 * x))
    lantern = (x + 0.40) ** 2 + (y - 0.25) ** 2
    canvas.glow(torch.exp(-lantern.sqrt() / 0.05) * 0.7 * canvas.light.lamps, canvas.tint(1.0, 0.80, 0.42))


def duck(canvas: Canvas) -> None:
    heading = canvas.heading
    x, y, side = canvas.x * heading, canvas.y, canvas.light.side * heading
    tail = polygon(x, y, [(-0.50, 0.50), (-0.40, 0.16), (-0.16, 0.22)])
    trunk = smooth_minimum(ellipse(x + 0.03, y - 0.25, 0.44, 0.255), tail, 0.10)
    neck = segment(x, y, (0.20, 0.38), (0.22, 0.66), 0.115)
    trunk = smooth_minimum(trunk, neck, 0.10)
    head = circle(x - 0.235, y - 0.76, 0.205)
    outline = torch.maximum(smooth_minimum(trunk, head, 0.05), 0.0 - y)
    beak = ellipse(x - 0.46, y - 0.72, 0.115, 0.055)
    canvas.fill(beak, canvas.lit(canvas.tint(0.98, 0.55, 0.10), 0.6 + 2 * (y - 0.72)))
    top = torch.where(y > 0.55, (y - 0.76) / 0.205 * 0.36, (y - 0.27) / 0.27 * 0.34)
    sideways = torch.where(y > 0.55, (x - 0.235) / 0.205, x / 0.44) * side * 0.30
    facing = (0.50 + top + sideways).clamp(0, 1.1)
    canvas.fill(outline, canvas.lit(canvas.colour, facing))
    wing = torch.maximum(ellipse(x + 0.10, y - 0.29, 0.25, 0.145), -ellipse(x + 0.02, y - 0.50, 0.34, 0.15))
    canvas.fill(wing, canvas.lit(canvas.colour * 0.86, 0.42 + 1.1 * (y - 0.2)))
    canvas.fill(circle(x - 0.295, y - 0.80, 0.040), canvas.tint(0.05, 0.05, 0.07) + 0 * x)
    canvas.fill(circle(x - 0.305, y - 0.815, 0.013), canvas.lit(canvas.tint(1, 1, 1), 1 + 0 * x))
