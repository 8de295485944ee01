"""Loaders: a base model with its image tokenizer, and a shortcut head."""

from comfy_api.latest import io

from ..migm_core import arguments
from ..migm_core.families import Family, family_named
from .host import folders, weights
from .sockets import HEAD, MODEL, advanced, schema

# The host shows what validate_inputs says at each input that it takes, so each takes the one that it judges.


class LoadModel(io.ComfyNode):
    """What the loaders of all families have in common.

    Attributes:
        family: whose models it lists.
    """

    family: Family

    @classmethod
    def of_family(cls, about_models: str, **values) -> io.Schema:
        return schema(
            category="MIGM",
            inputs=[
                io.Combo.Input("model", options=list(folders.models(cls.family)), tooltip=about_models),
                advanced(
                    io.Combo.Input(
                        "dtype",
                        options=weights.dtypes(),
                        default="auto",
                        tooltip="How weights are kept. auto leaves it to ComfyUI; float8 halves the memory of 16 bits at some loss.",
                    )
                ),
            ],
            outputs=[MODEL.Output("migm_model", display_name="model", tooltip="The model with its image tokenizer. ComfyUI places its weights when they are needed.")],
            **values,
        )

    @classmethod
    def validate_inputs(cls, model=None):
        return _there(model, folders.models(cls.family), "model")

    @classmethod
    def fingerprint_inputs(cls, model=None, dtype=None):
        return _fingerprint(model, folders.models(cls.family))

    @classmethod
    def execute(cls, model, dtype) -> io.NodeOutput:
        if dtype not in weights.dtypes():  # from a link: the host has checked what is chosen on the node
            raise ValueError(f"dtype is {arguments.shown(dtype)}, expected one of {', '.join(weights.dtypes())}.")
        return io.NodeOutput(weights.load_model(model, dtype, cls.family))


class LoadLumina(LoadModel):
    family = family_named("lumina-dimoo")

    @classmethod
    def define_schema(cls):
        return cls.of_family(
            "The bundled demo runs at once. Others lie in models/migm: a folder as published, or one self-contained .safetensors, "
            "which may also lie in models/diffusion_models.",
            node_id="MIGMLoadLumina",
            display_name="MIGM Load Lumina-DiMOO",
            search_aliases=["load checkpoint", "lumina", "dimoo", "masked image generation", "migm loader"],
            description="Load a Lumina-DiMOO model with its image tokenizer: the bundled demo, or a folder or file in models/migm.",
        )


class LoadMaskGIT(LoadModel):
    family = family_named("maskgit")

    @classmethod
    def define_schema(cls):
        return cls.of_family(
            "The bundled demo runs at once. Others lie in models/migm: the published .pth with the folder VQGAN beside it or beside its folder, or one self-contained .safetensors, "
            "which may also lie in models/diffusion_models.",
            node_id="MIGMLoadMaskGIT",
            display_name="MIGM Load MaskGIT",
            search_aliases=["load checkpoint", "maskgit", "halton", "imagenet", "class conditional", "masked image generation", "migm loader"],
            description="Load a MaskGIT model, which generates images of classes, with its image tokenizer, a VQGAN: the bundled demo, or files in models/migm.",
        )


class LoadShortcutHead(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMLoadShortcutHead",
            display_name="MIGM Load Shortcut Head",
            category="MIGM",
            search_aliases=["shortcut", "accelerate", "speed up", "cache", "teacache", "migm head"],
            description="Load the small network that takes the base model's place at most steps. It belongs to one base model.",
            inputs=[
                io.Combo.Input(
                    "head",
                    options=list(folders.heads()),
                    tooltip="That of a bundled demo, or a .safetensors or .pth file in models/migm: the one that was trained for the model that it is used with.",
                ),
            ],
            outputs=[HEAD.Output("migm_head", display_name="head", tooltip="For MIGM KSampler (Shortcut), MIGM MaskGIT Sampler and MIGM Compare Methods.")],
        )

    @classmethod
    def validate_inputs(cls, head=None):
        return _there(head, folders.heads(), "shortcut head")

    @classmethod
    def fingerprint_inputs(cls, head=None):
        return _fingerprint(head, folders.heads())

    @classmethod
    def execute(cls, head) -> io.NodeOutput:
        return io.NodeOutput(weights.load_head(head))


def _there(name: str | None, among: dict, what: str) -> bool | str:
    """For validation: True, or what is wrong. A linked input is not known yet, and of a list that is no link the host complains itself."""
    try:
        if name is not None and not isinstance(name, list):
            folders.chosen(name, among, what)
    except (ValueError, OSError) as error:
        return str(error)
    return True


def _fingerprint(name: str | None, among: dict) -> tuple:
    return folders.fingerprint(among[name]) if isinstance(name, str) and name in among else ()
