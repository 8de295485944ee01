"""For scripts run by a host's own Python in the host's folder: the host's modules, and the extension's, without a server."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[2]


def enter(base: str | Path, *options: str, dynamic: bool = False) -> Callable[[str], ModuleType]:
    """Make ready for importing the host, with a base directory; a function that imports a module of the extension by its path.

    Where there is no GPU the host needs the option --cpu. The extension is imported as the host does it: under a name of no meaning.

    Args:
        dynamic: turn the host's dynamic memory on, as its main.py does. Without a GPU there are no cards for it to manage, and the
            host itself uses its plain patcher; all else is as on a card.
    """
    sys.argv = ["main.py", *options, "--base-directory", str(base), "--disable-api-nodes"]
    sys.path.insert(0, str(Path.cwd()))
    import comfy.options

    comfy.options.enable_args_parsing()
    if dynamic:
        _turn_on_dynamic_memory("--cpu" in options)
    spec = importlib.util.spec_from_file_location("any-name", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)])
    module = importlib.util.module_from_spec(spec)
    sys.modules["any-name"] = module
    spec.loader.exec_module(module)
    importlib.import_module("any-name.nodes.host.folders").register_model_folder()
    return lambda path: importlib.import_module(f"any-name.{path}")


def own_numbers(model) -> dict:
    """A loaded model's own numbers, as the nodes' ``make_plan`` takes them."""
    own, family = model.checkpoint.settings, model.checkpoint.family
    rule = {name: own[name] for name in family.rule_settings() if name in own}
    return {"steps": own["steps"], "guidance_scale": own["guidance_scale"], "rule": rule, "method_settings": {"budget": own["budget"]}}


def _turn_on_dynamic_memory(cpu: bool) -> None:
    import comfy_aimdo.control as library

    assert library.init(), "comfy-aimdo cannot be opened"  # before the host's modules look for it
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    if not cpu:
        assert library.init_devices([comfy.model_management.get_torch_device().index]), "comfy-aimdo takes no card here"
    comfy.memory_management.aimdo_enabled = True
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
