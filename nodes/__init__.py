"""The ComfyUI nodes: schemas and short executes around the engine. One file a group."""

import asyncio

from comfy_api.latest import ComfyExtension, io

from .host import folders


class MIGMExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        try:
            folders.register_model_folder()  # before the loaders list what lies in it
            await asyncio.to_thread(folders.look)  # their lists open files, later only those that are new
            return _nodes()
        except (Exception, KeyboardInterrupt, asyncio.CancelledError):
            raise  # the host logs it, and starts
        except BaseException as error:  # such as a library's panic, which the host would not survive
            raise RuntimeError(f"MIGM-Shortcut cannot be loaded: {type(error).__name__}: {error}") from error


def _nodes() -> list[type[io.ComfyNode]]:
    from .canvas import DecodeCanvas, EmptyCanvas, EncodeImageToCanvas
    from .compare import CompareMethods
    from .host.routes import register_routes, serve_page_files
    from .loaders import LoadLumina, LoadMaskGIT, LoadShortcutHead
    from .maskgit import MaskGITClass, MaskGITSampler
    from .outpaint import Outpaint
    from .prompt import Prompt
    from .sampler import ShortcutSampler
    from .tasks import EditImage, ImageTask
    from .understand import AskAboutImage

    nodes = [LoadLumina, LoadShortcutHead, Prompt, EmptyCanvas, EncodeImageToCanvas, ShortcutSampler, DecodeCanvas, CompareMethods]
    nodes += [LoadMaskGIT, MaskGITClass, MaskGITSampler, EditImage, ImageTask, Outpaint, AskAboutImage]
    register_routes()
    serve_page_files(nodes)
    return nodes
