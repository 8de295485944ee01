"""MIGM Prompt: what to generate, in words."""

from comfy_api.latest import io

from .sockets import PROMPT, PromptText, schema


class Prompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMPrompt",
            display_name="MIGM Prompt",
            category="MIGM",
            search_aliases=["prompt", "text", "clip text encode", "negative prompt", "lumina"],
            description="What to generate, and what to keep away from.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a large red heart left of a small yellow star on a navy background",
                    tooltip="What to generate. The bundled demo model knows captions like the one written here.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    optional=True,
                    tooltip="What cfg leads away from; with cfg at 0 it changes nothing. Empty: away from images without any description, as the model was trained.",
                ),
            ],
            outputs=[PROMPT.Output("prompt", display_name="prompt", tooltip="For MIGM KSampler (Shortcut) and MIGM Compare Methods.")],
        )

    @classmethod
    def execute(cls, text, negative="") -> io.NodeOutput:
        return io.NodeOutput(PromptText(text, negative))
