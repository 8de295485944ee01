"""For scripts run by a host's own Python in the host's folder: the host's modules, and the extension's, without a server."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]


def enter(base: str | Path, *options: str) -> Callable[[str], ModuleType]:
    """Make ready for importing the host, with a base directory; a function that imports a module of the extension by its path.

    Where there is no GPU the host needs the option --cpu. The extension is imported as the host does it: under a name of no meaning.
    """
    sys.argv = ["main.py", *options, "--base-directory", str(base), "--disable-api-nodes"]
    sys.path.insert(0, str(Path.cwd()))
    import comfy.options

    comfy.options.enable_args_parsing()
    spec = importlib.util.spec_from_file_location("any-name", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["any-name"] = module
    spec.loader.exec_module(module)
    importlib.import_module("any-name.nodes.files").register_model_folder()
    return lambda path: importlib.import_module(f"any-name.{path}")
