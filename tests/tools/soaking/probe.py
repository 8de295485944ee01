"""A pack of nodes that tells, inside the host, what is alive there: GET /soak/state. Put into a host's custom_nodes as an __init__.py."""

import asyncio
import gc
import sys

import comfy.model_management
import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}


def ours(room: str):
    """A module of the extension, which the host imports under a name of its own."""
    return next(module for name, module in list(sys.modules.items()) if name.endswith(f".nodes.{room}") and hasattr(module, "__file__"))


def state() -> dict:
    """Counts of what is alive, after a collection of garbage."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [each for each in objects if type(each) in (torch.Tensor, torch.nn.Parameter)]
    of_memory = [each.untyped_storage() for each in tensors if each.device.type == "cpu" and each.layout == torch.strided]
    storages = {storage.data_ptr(): storage.nbytes() for storage in of_memory}
    weights, times, folders = ours("host.weights"), ours("step_times"), ours("host.folders")
    loaded = [type(each.model.model).__name__ if each.model is not None else "dead" for each in comfy.model_management.current_loaded_models]
    return {
        "loaded": loaded,
        "models": len(weights._models),
        "heads": len(weights._heads),
        "step times": sum(map(len, times._seconds.values())),
        "file marks": len(folders._held),
        "objects": len(objects),
        "tensors": len(tensors),
        "tensor MB": sum(storages.values()) / 2**20,
    }


@PromptServer.instance.routes.get("/soak/state")
async def answer(request: web.Request) -> web.Response:
    return web.json_response(await asyncio.to_thread(state))
