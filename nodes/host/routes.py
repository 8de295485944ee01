"""What the page asks and hears: a run's steps before it starts, and each step as it ends."""

import asyncio
import logging
import re
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ... import PLAIN_NAME
from ...migm_core.sampling.loop import StepReport
from .. import plan

PLAN = "/migm/plan"
FOLDER = Path(__file__).parents[2]
PACK = "migm-shortcut"  # the name in the registry, of plain letters


def register_routes() -> None:
    """Answer ``GET /migm/plan?model=&method=&head=&steps=&cfg=&width=&height=&batch=&negative=&unknown=&task=&image_cfg=&pictures=``, with the settings of methods and
    of the model's family by their names, such as ``budget`` and ``temperature``.

    All is optional: the model is the bundled one and the settings are the model's own where they are not given; ``head`` and ``negative``
    are 1 where a head is connected and a negative prompt is written; ``unknown`` names, with commas, what only a run can tell;
    ``task`` is that of a prompt with pictures, ``pictures`` their sizes, such as 512x768, with commas, and nothing in the place of one that is not known.

    The answer: ``method``, ``steps`` and the method's ``settings`` as they will be; ``kinds``, of each step: "full", "skipped" or the method's
    own; ``legend``, {"kind", "about"} of each kind that there is, in an order that stays; ``uses``, the settings that the method asked for
    looks at, of ``method_settings``, those of all methods; ``notes``, why something else runs than was asked for; ``cautions``, what the
    model cannot do well; ``own``, the model's own settings; ``presets``, steps and budget by name; ``speed_up``, {"value", "source"}, "measured"
    where this process has measured the steps of this model at this size, or "sizes", what the models' sizes allow at most, or null
    where nothing is accelerated. Or, with status 400, ``error``, a sentence.
    """
    routes = PromptServer.instance.routes
    if any(getattr(route, "path", None) == PLAN for route in routes):
        logging.warning("MIGM-Shortcut: another extension answers %s already, so the step timeline may be wrong.", PLAN)
        return

    @routes.get(PLAN)
    async def answer(request: web.Request) -> web.Response:
        try:  # in a thread: it walks folders and opens files
            return web.json_response(await asyncio.to_thread(plan.answer, dict(request.query)))
        except (ValueError, OSError) as error:
            return web.json_response({"error": str(error)}, status=400)
        except Exception as error:  # files may be bad in ways that nobody has thought of
            logging.exception("MIGM-Shortcut: %s", PLAN)
            return web.json_response({"error": f"The model's files cannot be read: {type(error).__name__}: {error}"}, status=400)


def serve_page_files(nodes: list[type]) -> None:
    """Serve scripts, styles, help pages and templates where the folder's name is not of plain letters, for which the host answers 404.

    The page asks for help under the name of the nodes' Python module, which it cuts at a dot and at "#": there they get the plain one.
    """
    if PLAIN_NAME or not (FOLDER / "web").is_dir():
        return
    server = PromptServer.instance
    import nodes as host

    host.EXTENSION_WEB_DIRS[PACK] = str(FOLDER / "web")
    # As versions of aiohttp hand it on: decoded but for its %, or as it came. Braces would end the pattern.
    written = {re.escape(name).replace(r"\{", ".").replace(r"\}", ".") for name in (FOLDER.name.replace("%", "%25"), quote(FOLDER.name))}

    @server.routes.get("/workflow_templates/{folder:" + "|".join(written) + "}/{file}")
    async def template(request: web.Request) -> web.StreamResponse:
        found = {path.name: path for path in (FOLDER / "example_workflows").iterdir()}.get(request.match_info["file"])
        return web.FileResponse(found) if found else web.Response(status=404)

    async def rename(app: web.Application) -> None:
        for node in nodes:
            node.RELATIVE_PYTHON_MODULE = f"custom_nodes.{PACK}"

    server.app.on_startup.append(rename)  # after the host has named them by the folder


def tell_step(model: str, report: StepReport, width: int, height: int) -> None:
    """Send the message ``migm.step`` to the page that queued what is running, if any did: the step, the model and the size of the image."""
    if PromptServer.instance.client_id is None:
        return  # the host would send it to all pages, and tell none of them when the run is over
    context = get_executing_context()
    step = {"node": context.node_id if context else None, "step": report.step, "steps": report.steps, "kind": report.kind}
    step |= {"model": model, "width": width, "height": height}
    PromptServer.instance.send_sync("migm.step", step, PromptServer.instance.client_id)
