"""MIGM Prompt: what to generate, in words, and with pictures where a task takes them."""

from comfy_api.latest import io

from .host.pictures import no_pictures
from .sockets import PromptText, schema, unused
from .tasks import IMAGE_SCALE, OF_PROMPT, OFFERED, TEXT, chosen_task, prompt_output, read_task, seen_pictures, task_inputs


class Prompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        wordless = [task.name for task in OFFERED if not task.takes_text]
        aliases = ["prompt", "text", "clip text encode", "negative prompt", "task", "edit", "control", "controlnet", "canny", "hed", "depth", "openpose", "normal"]
        aliases += ["segmentation", "preprocessor", "dense prediction", "subject driven", "ip adapter", "reference image", "style transfer", "multi view"]
        aliases += ["novel view", "image to image", "lumina"]
        return schema(
            node_id="MIGMPrompt",
            display_name="MIGM Prompt",
            category="MIGM",
            search_aliases=aliases,
            description="What to generate, and what to keep away from: of words alone, or of pictures by one of Lumina-DiMOO's tasks.",
            inputs=[
                unused(
                    io.String.Input(
                        "text",
                        multiline=True,
                        dynamic_prompts=True,
                        default="a red house left of a yellow tree by a lavender field, on a clear evening",
                        tooltip="What to generate; for edit, what to change. The bundled demo takes plain English about one or two objects by a lake, such as: "
                        "a red house left of a yellow tree at sunset. "
                        f"{', '.join(wordless[:-1])} and {wordless[-1]} have words of their own.",
                    ),
                    task=wordless,
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    optional=True,
                    tooltip="What cfg leads away from; with cfg at 0 it changes nothing. Empty: away from images without any description, as the model was trained.",
                ),
                *task_inputs(OF_PROMPT, must=False),
            ],
            outputs=[
                prompt_output(),
                io.Image.Output("seen", display_name="images", is_output_list=True, tooltip="The task's pictures as the model sees them, in their order; nothing for text-to-image."),
            ],
        )

    @classmethod
    def execute(cls, text, negative="", task=None, **flat) -> io.NodeOutput:
        task, given = chosen_task(task, flat, OF_PROMPT, otherwise=TEXT)
        if task.name == TEXT:
            return io.NodeOutput(PromptText(text, negative), no_pictures())
        scale = IMAGE_SCALE if given.get("image_cfg") is None else given["image_cfg"]
        prompt = read_task(given.get("model"), task, given, text, negative, scale)
        return io.NodeOutput(prompt, seen_pictures(prompt))
