"""What the page asks and hears: a run's steps before it starts, and each step as it ends."""

from aiohttp import web
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..migm_core.sampling.sampler import StepReport
from . import files
from .run import resolve, step_kinds


def register_routes() -> None:
    """Answer ``GET /migm/plan?model=&preset=&method=&head=&steps=&budget=``, all as in the sampler's widgets; ``head`` is 1 where one is connected.

    The answer: ``steps``, ``budget``, ``method`` and ``notes`` as they will be, and ``kinds``, one of "full", "shortcut" and "partial"
    for each step; or, with status 400, ``error``.
    """

    @PromptServer.instance.routes.get("/migm/plan")
    async def plan(request: web.Request) -> web.Response:
        asked = request.query
        try:
            own = files.own_settings(files.chosen(asked.get("model", files.BUNDLED), files.models(), "model"))
            numbers = {name: int(asked.get(name, own[name])) for name in ("steps", "budget")}
            resolved = resolve(own, asked.get("preset", "Balanced"), asked.get("method", "shortcut"), asked.get("head") == "1", **numbers)
            kinds = step_kinds(resolved.method, resolved.steps, resolved.budget)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({**resolved._asdict(), "kinds": kinds})


def tell_step(report: StepReport) -> None:
    """Send the message ``migm.step`` to the page that queued what is running."""
    context = get_executing_context()
    step = {"node": context.node_id if context else None, "step": report.step, "steps": report.steps, "kind": report.kind}
    PromptServer.instance.send_sync("migm.step", step, PromptServer.instance.client_id)
