"""The host's door: ComfyUI imports this file and asks it for the nodes. It loads nothing until then."""

import logging
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
MIGM_SHORTCUT = str(FOLDER)  # by which another copy of this file knows that this one is here


def _earlier_copy() -> str | None:
    """The folder of another copy of this extension that the host has imported already."""
    others = (module for name, module in list(sys.modules.items()) if name != __name__)
    return next((vars(module)["MIGM_SHORTCUT"] for module in others if "MIGM_SHORTCUT" in getattr(module, "__dict__", {})), None)


_FIRST = _earlier_copy()

# The host serves these under the folder's name, if that is of plain letters; under other names nodes/page.py does.
PLAIN_NAME = FOLDER.name.isascii() and FOLDER.name.replace("-", "_").replace("_", "a").isalnum()
if _FIRST is None and PLAIN_NAME and (FOLDER / "web").is_dir():
    WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    if _FIRST is not None:
        logging.warning("MIGM-Shortcut is installed twice: in %s, which is used, and in %s, which is not. Remove one of them.", _FIRST, FOLDER)
        from comfy_api.latest import ComfyExtension

        class Nothing(ComfyExtension):
            async def get_node_list(self):
                return []

        return Nothing()
    from .nodes import MIGMExtension

    return MIGMExtension()
