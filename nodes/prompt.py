"""Prompt: what to draw, in words."""

from comfy_api.latest import io

from .wires import PROMPT, PromptText, schema


class Prompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MIGMPrompt",
            display_name="MIGM Prompt",
            category="MIGM",
            search_aliases=["prompt", "text", "clip text encode", "negative prompt", "lumina"],
            description="What to draw, and what to keep away from.",
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    default="a large red heart left of a small yellow star on a navy background",
                    tooltip="What to draw. The bundled demo model knows captions like the one written here.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    optional=True,
                    tooltip="What guidance leads away from. Empty: away from images without any description, which is what the model was trained with.",
                ),
            ],
            outputs=[PROMPT.Output("prompt", display_name="prompt", tooltip="For Shortcut Sampler and Compare Methods.")],
        )

    @classmethod
    def execute(cls, text, negative="") -> io.NodeOutput:
        return io.NodeOutput(PromptText(text, negative))
