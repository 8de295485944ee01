"""Signed distances to simple outlines: negative inside. All tensors broadcast; units are the caller's."""

import torch
from torch import Tensor


def circle(x: Tensor, y: Tensor, radius) -> Tensor:
    return torch.sqrt(x * x + y * y + 1e-8) - radius


def ellipse(x: Tensor, y: Tensor, across, up) -> Tensor:
    """Half axes ``across`` and ``up``. Exact on the outline, a good estimate near it."""
    near = torch.sqrt((x / across) ** 2 + (y / up) ** 2 + 1e-8)
    slope = torch.sqrt((x / across**2) ** 2 + (y / up**2) ** 2 + 1e-8)
    return near * (near - 1) / slope


def box(x: Tensor, y: Tensor, across, up) -> Tensor:
    """Half sides ``across`` and ``up``; corners are sharp, and outside them the distance is too small."""
    return torch.maximum(x.abs() - across, y.abs() - up)


def trapezoid(x: Tensor, y: Tensor, bottom: float, top: float, across_bottom, across_top) -> Tensor:
    """Between y = bottom and y = top, half sides ``across_bottom`` and ``across_top``."""
    slope = (across_top - across_bottom) / (top - bottom)
    side = (x.abs() - across_bottom - slope * (y - bottom)) / (1 + slope**2) ** 0.5
    return torch.maximum(side, torch.maximum(bottom - y, y - top))


def segment(x: Tensor, y: Tensor, start: tuple, end: tuple, radius: float) -> Tensor:
    """A line from ``start`` to ``end``, each (x, y), of half width ``radius``."""
    along_x, along_y = end[0] - start[0], end[1] - start[1]
    x, y = x - start[0], y - start[1]
    t = ((x * along_x + y * along_y) / (along_x**2 + along_y**2)).clamp(0, 1)
    return torch.sqrt((x - t * along_x) ** 2 + (y - t * along_y) ** 2 + 1e-8) - radius


def polygon(x: Tensor, y: Tensor, corners: list[tuple[float, float]]) -> Tensor:
    """A convex polygon, corners (x, y) counterclockwise where y points up."""
    distance = None
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        edge = ((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / length
        distance = edge if distance is None else torch.maximum(distance, edge)
    return distance


def smooth_minimum(first: Tensor, second: Tensor, width: float) -> Tensor:
    """The union of two outlines, rounded where they meet."""
    h = (0.5 + 0.5 * (second - first) / width).clamp(0, 1)
    return second + (first - second) * h - width * h * (1 - h)


def smoothstep(low, high, values: Tensor) -> Tensor:
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = ((values - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
