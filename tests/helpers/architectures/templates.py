"""Chat templates as each family publishes them, down to what matters here.

That is: where images go, what is put between parts, whether strings are read, how a system message is
treated, and what the generation prompt ends with.
"""
# ruff: noqa: E501 - Jinja's statements are easier to read on one line each

from __future__ import annotations


def _parts(image: str, text: str = "{{ part.text }}") -> str:
    return (
        "{%- for part in message.content %}{%- if part.type == 'image' %}{{ '" + image + "' }}"
        "{%- elif part.type == 'text' %}" + text + "{%- endif %}{%- endfor %}"
    )


def _content(image: str, string: str = "{{ message.content }}", text: str = "{{ part.text }}") -> str:
    return (
        "{%- if message.content is string %}" + string + "{%- else %}" + _parts(image, text) + "{%- endif %}"
    )


def chatml(image: str, *, system: str = "", prompt_end: str = "") -> str:
    """Return the template of Qwen and InternVL: strings or parts, tools in the system message.

    Args:
        image: the text that stands for an image.
        system: the system message of a conversation that has none.
        prompt_end: Jinja behind the generation prompt.
    """
    start = ""
    if system:
        start = (
            "{%- if messages[0].role != 'system' %}<|im_start|>system\n" + system + "<|im_end|>\n{% endif %}"
        )
    tools = (
        "{%- if tools %}{{ '<|im_start|>system\n# Tools\n' + (tools | tojson) + '<|im_end|>\n' }}{%- endif %}"
    )
    turns = (
        "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
        + _content(image)
        + "{{ '<|im_end|>\n' }}{%- endfor %}"
    )
    return (
        start
        + tools
        + turns
        + "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        + prompt_end
        + "{%- endif %}"
    )


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
ALWAYS_THINKS = "{{ '<think>\n' }}"
"""The end of the generation prompt of Qwen3-VL-Thinking."""
THINKS_UNLESS_SWITCHED_OFF = (
    "{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
    "{%- else %}{{ '<think>\n' }}{%- endif %}"
)
"""The same of Qwen3.5."""

GEMMA3 = (
    "{{ bos_token }}"
    "{%- if messages[0].role == 'system' %}{%- set turns = messages[1:] %}"
    "{%- set first = (messages[0].content if messages[0].content is string else messages[0].content[0].text) + '\n\n' %}"
    "{%- else %}{%- set turns = messages %}{%- set first = '' %}{%- endif %}"
    "{%- for message in turns %}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{%- endif %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    "{{ first if loop.first else '' }}"
    + _content("<start_of_image>", "{{ message.content | trim }}", "{{ part.text | trim }}")
    + "{{ '<end_of_turn>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{%- endif %}"
)
GEMMA4 = (
    "{{ bos_token }}{%- for message in messages %}"
    "{{ '<|turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' }}"
    + _content("<|image|>", "{{ message.content | trim }}", "{{ part.text | trim }}")
    + "{{ '<turn|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|turn>model\n' }}"
    "{%- if not enable_thinking | default(false) %}{{ '<|channel>thought\n<channel|>' }}{%- endif %}{%- endif %}"
)
PALIGEMMA = "{%- for message in messages %}" + _content("<image>") + "{%- endfor %}"

# LLaVA's read parts alone: a string would be gone through character by character.
LLAVA = (
    "{% for message in messages %}{% if message.role != 'system' %}{{ message.role.upper() + ': ' }}{% endif %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ part.text + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
LLAVA_ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + ' ' }}"
    "{% for part in message.content | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}{{ '\n' + part.text }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Of SmolVLM and Idefics3: it reads the first part of each message, which must be there.
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}"
    "{% if message.content[0].type == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    + _parts("<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{%- for message in messages %}"
    "{%- if message.role == 'system' %}[SYSTEM_PROMPT]"
    "{{ message.content if message.content is string else message.content[0].text }}[/SYSTEM_PROMPT]"
    "{%- elif message.role == 'user' %}[INST]" + _content("[IMG]") + "[/INST]"
    "{%- elif message.role == 'assistant' %}"
    "{{ message.content if message.content is string else message.content[0].text }}{{ eos_token }}"
    "{%- else %}{{ raise_exception('only user, system and assistant roles') }}{%- endif %}{%- endfor %}"
)
GLM = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message.role + '|>\n' }}"
    + _content("<|begin_of_image|><|image|><|end_of_image|>")
    + "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
