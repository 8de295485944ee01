"""The ComfyUI nodes: schemas and short executes around the engine. One file a group."""

from comfy_api.latest import ComfyExtension, io

from . import files


class MIGMExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        files.register_model_folder()  # before the loaders list what lies in it
        from .canvas import DecodeCanvas, EmptyCanvas, EncodeImageToCanvas
        from .compare import CompareMethods
        from .loaders import LoadLumina, LoadShortcutHead
        from .page import register_routes
        from .prompt import Prompt
        from .sampler import ShortcutSampler

        register_routes()
        return [LoadLumina, LoadShortcutHead, Prompt, EmptyCanvas, EncodeImageToCanvas, ShortcutSampler, DecodeCanvas, CompareMethods]
