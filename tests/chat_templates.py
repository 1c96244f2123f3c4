"""Chat templates in the styles that models have, conversations, and the tokens that `transformers` makes of them.

The tokens stand in chat_templates.json and were written by this file, in an environment with transformers and torch:

    PYTHONPATH=tests python tests/chat_templates.py > tests/chat_templates.json

Where transformers refuses a conversation (no system message, roles that must take turns), null stands.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import tiny_llama

GOLDEN = Path(__file__).with_suffix(".json")

CONVERSATIONS = {
    "system": [("system", " You are the user. "), ("user", "what do I think of 123?\n\n  Ünï `code` 🙂")],
    "question": [("user", " what do I think? ")],
    "turns": [("user", "a {{ x }} {% if %}"), ("assistant", "<think>x</think>\nb"), ("user", "c")],
    "system and turns": [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c")],
    "two questions": [("user", "a"), ("user", "c")],
}

TEMPLATES = {
    "chatml": tiny_llama.CHAT_TEMPLATE,
    "a system message by default": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a system.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "turns only": (
        "{{ bos_token }}{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
    ),
    "no system message": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
        "{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<turn>' + role + '\n' + message['content'] | trim + '</turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<turn>model\n'}}{% endif %}"
    ),
    "white space control": """\
{{- bos_token }}
{%- if not date is defined %}
    {%- set date = "1 May" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|header|>system\\n\\n" + "Today: " + date + "\\n\\n" }}
{{- system_message }}
{%- for message in messages %}
    {{- '<|header|>' + message['role'] + '\\n\\n'+ message['content'] | trim }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant\\n\\n' }}
{%- endif %}
""",
    "reasoning taken out": """\
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and not message.content.startswith('<tool>') %}
        {%- set ns.searching = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == "assistant" and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
}


def history(name: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in CONVERSATIONS[name]]


def main() -> None:
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    golden = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(tiny_llama.write_folder(Path(folder)))
    for style, template in TEMPLATES.items():
        for name in CONVERSATIONS:
            try:
                golden[f"{style}: {name}"] = tokenizer.apply_chat_template(
                    history(name), chat_template=template, add_generation_prompt=True, return_dict=False
                )
            except TemplateError:  # what `raise_exception` raises
                golden[f"{style}: {name}"] = None
    lines = (f"{json.dumps(key)}: {json.dumps(tokens)}" for key, tokens in golden.items())
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
