"""The host's door: ComfyUI imports this file and asks it for the nodes. It loads nothing until then."""

from pathlib import Path

if (Path(__file__).parent / "web").is_dir():
    WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import MIGMExtension

    return MIGMExtension()
