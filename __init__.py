"""The host's door: ComfyUI imports this file and asks it for the nodes. It loads nothing until then."""

import logging
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
# A host may find two copies, or one and a link to it: the first leaves its name in a module of the host, and only that one serves.
HOST = sys.modules.get("folder_paths")
FIRST = vars(HOST).setdefault("migm_shortcut_folder", str(FOLDER)) if HOST else str(FOLDER)
SERVES = FIRST == str(FOLDER)

# The host serves these under the folder's name, if that is of plain letters; under other names nodes/host/routes.py does.
PLAIN_NAME = FOLDER.name.isascii() and FOLDER.name.replace("-", "").replace("_", "").isalnum()
if SERVES and PLAIN_NAME and (FOLDER / "web").is_dir():
    WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    if SERVES:
        from .nodes import MIGMExtension

        return MIGMExtension()

    logging.warning("MIGM-Shortcut is installed twice: in %s, which is used, and in %s, which is not. Remove one of them.", FIRST, FOLDER)
    from comfy_api.latest import ComfyExtension

    class Nothing(ComfyExtension):
        async def get_node_list(self):
            return []

    return Nothing()
