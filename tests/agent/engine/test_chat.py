"""Chat templates give what Hugging Face's own code gives, and can do no harm."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import transformers

from lite_llm.contracts.errors import Corrupt, InvalidRequest, LiteLLMError, Unsupported
from lite_llm.engine.chat import ChatRenderer, ChatTemplate
from lite_llm.proto.v1.generate_pb2 import Chat, ChatMessage

CHATML = """{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
LLAMA_2 = """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}
{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() }}
        {{- ' [/INST]' }}
    {% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}
{% endfor %}"""
LLAMA_3 = """{{- bos_token }}{%- set ns = namespace(first=true) %}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- for message in messages %}
{{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}
{%- if ns.first %}{{- 'Today: ' + date_string + '\\n' }}{% set ns.first = false %}{% endif %}
{%- if 'tool_calls' in message %}
    {%- for call in message.tool_calls %}
        {{- '{"name": "' + call.function.name + '", "parameters": ' }}
        {{- call.function.arguments | tojson }}{{- '}' }}
    {%- endfor %}
{%- elif message.role == 'tool' %}{{- message.content | tojson }}
{%- else %}{{- message.content | trim }}{% endif %}{{- '<|eot_id|>' }}
{%- endfor %}
{%- if tools is not none %}{{- tools | tojson(indent=2) }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
GEMMA = """{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}
{% set role = 'model' %}{% else %}{% set role = message.role %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message.content | trim + '<end_of_turn>\\n' }}{% endfor %}
{% generation %}{{ '<start_of_turn>model\\n' }}{% endgeneration %}"""
QWEN = """{%- macro shown(message) %}
{{- message.role | upper }}: {{ message.content }}{% endmacro %}
{%- for message in messages[::-1] %}{%- if loop.index > 8 %}{% break %}{% endif %}
{{- shown(message) }}{{ "</think>" in message.content }}{{ message.content.split(' ')[-1] }}
{%- endfor %}{%- if tools %}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"""

CALL = {"name": "weather", "arguments": '{"city": "Kraków", "days": [1, 2]}'}
TALK = [
    ChatMessage(role="user", content="  what is <b>this</b>? 🦊 "),
    ChatMessage(role="assistant", content="a fox"),
    ChatMessage(role="user", content="thanks"),
]
WITH_CALL = [
    *TALK,
    ChatMessage(
        role="assistant",
        extra_json=json.dumps({"tool_calls": [{"type": "function", "function": CALL}]}),
    ),
    ChatMessage(role="tool", content="sunny & 'warm'", extra_json='{"tool_call_id": "1"}'),
]
SYSTEM = ChatMessage(role="system", content="be kind")
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"a": "ü"}}}]
NOON = 1_753_012_800  # 20 July 2025, 12:00 UTC


@pytest.fixture(scope="module")
def hugging_face(checkpoint: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(checkpoint)


@asynccontextmanager
async def renderer(source: str | None, **limits: Any) -> AsyncIterator[ChatRenderer]:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": source}
    async with ChatRenderer(ChatTemplate.parse(config, None), **limits) as made:
        yield made


@pytest.mark.parametrize(
    ("template", "messages", "tools"),
    [
        (CHATML, [SYSTEM, *TALK], None),
        (LLAMA_2, [SYSTEM, *TALK], None),
        (LLAMA_2, TALK, None),
        (LLAMA_3, WITH_CALL, TOOLS),
        (LLAMA_3, TALK, None),
        (GEMMA, TALK, None),
        (QWEN, TALK * 4, TOOLS),
    ],
)
async def test_prompts_are_hugging_faces(
    hugging_face: Any, template: str, messages: list[ChatMessage], tools: Any
) -> None:
    plain = [
        {"role": each.role, "content": each.content, **json.loads(each.extra_json or "{}")}
        for each in messages
    ]
    for each in plain:
        for call in each.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    expected = hugging_face.apply_chat_template(
        plain,
        chat_template=template.replace('strftime_now("%d %b %Y")', '"20 Jul 2025"'),
        tools=tools,
        add_generation_prompt=True,
        tokenize=False,
    )
    chat = Chat(messages=messages, tools_json=json.dumps(tools) if tools else "")
    async with renderer(template) as made:
        assert await made.prompt(chat, now=NOON) == expected
        assert await made.prompt(chat, now=NOON) == expected  # the process serves many


async def failure(source: str | None, *messages: ChatMessage, **limits: Any) -> LiteLLMError:
    async with renderer(source, **limits) as made:
        with pytest.raises(LiteLLMError) as raised:
            await made.prompt(Chat(messages=messages), now=NOON)
    return raised.value


async def test_a_refusal_is_in_the_templates_words() -> None:
    error = await failure(LLAMA_2, *TALK[1:])
    assert (type(error), error.where) == (InvalidRequest, "messages")
    assert "Roles must alternate" in str(error)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**11 }}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}{{ ns.s }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{{ self._TemplateReference__context }}{{ ''|attr('__class__')|attr('mro') }}",
        "{% include '/etc/passwd' %}",
        "{% if %}",
    ],
)
async def test_hostile_templates_are_stopped(source: str) -> None:
    error = await failure(source, *TALK, seconds=1.0)
    assert isinstance(error, Corrupt | InvalidRequest)
    assert error.where in ("messages", "chat_template")
    assert "uid=" not in str(error)


async def test_after_a_stop_the_next_conversation_is_served() -> None:
    looping = "{% if messages[0].content == 'loop' %}{% for i in range(99999) %}"
    looping += "{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}fine"
    async with renderer(looping, seconds=1.0) as made:
        with pytest.raises(Corrupt, match="ran out of time"):
            await made.prompt(Chat(messages=[ChatMessage(role="user", content="loop")]), now=0)
        assert await made.prompt(Chat(messages=TALK), now=0) == "fine"


def said(extra_json: str) -> Chat:
    return Chat(messages=[ChatMessage(role="user", extra_json=extra_json)])


@pytest.mark.parametrize(
    ("chat", "where"),
    [
        (Chat(), "messages"),
        (Chat(messages=[ChatMessage(role="user", extra_json="[")]), "messages[0]"),
        (Chat(messages=[ChatMessage(role="user", extra_json="[]")]), "messages[0]"),
        (Chat(messages=TALK, tools_json="{}"), "tools"),
        (Chat(messages=TALK, tools_json="[" * 100_000), "tools"),
        (said('{"a": ' + "[" * 100_000 + "}"), "messages[0]"),
        (said('{"tool_calls": 5}'), "messages[0].tool_calls"),
        (said('{"content": "\\ud83e"}'), "messages"),
    ],
)
async def test_what_is_no_conversation_is_named(chat: Chat, where: str) -> None:
    async with renderer(CHATML) as made:
        with pytest.raises(InvalidRequest) as raised:
            await made.prompt(chat, now=NOON)
    assert raised.value.where == where


async def test_what_is_nested_deeply_is_rendered_or_refused() -> None:
    async with renderer("{{ messages[0].content }}") as made:
        for depth in range(800, 1000, 3):  # somewhere between, writing is deeper than reading
            deep = said('{"content": "fine", "a": ' + "[" * depth + "]" * depth + "}")
            try:
                told = await made.prompt(deep, now=NOON)
            except InvalidRequest as error:
                told = error.where
            assert told in ("fine", "messages[0]", "messages")


async def test_arguments_that_no_parser_takes_stay_text() -> None:
    call = {"function": {"arguments": "[" * 100_000}}
    source = "{{ messages[0].tool_calls[0].function.arguments | length }}"
    async with renderer(source) as made:
        assert await made.prompt(said(json.dumps({"tool_calls": [call]})), now=NOON) == "100000"


async def test_who_leaves_leaves_nothing_to_the_next_one() -> None:
    secret = Chat(messages=[ChatMessage(role="user", content="secret" * 500_000)])
    async with renderer("{{ messages[0].content | trim }}") as made:
        assert await made.prompt(Chat(messages=TALK), now=NOON) == "what is <b>this</b>? 🦊"
        for turns in range(4):  # while it is written, and while its answer is awaited
            leaving = asyncio.create_task(made.prompt(secret, now=NOON))
            for _ in range(turns):
                await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            assert await made.prompt(Chat(messages=TALK), now=NOON) == "what is <b>this</b>? 🦊"


async def test_without_a_template_there_is_no_chat() -> None:
    assert isinstance(await failure(None, *TALK), Unsupported)


def test_where_templates_are_found() -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    both = ChatTemplate.parse({"chat_template": named, "bos_token": {"content": "<s>"}}, None)
    assert both is not None
    assert (both.for_tools(None), both.for_tools([1]), both.special) == (
        "a",
        "b",
        {"bos_token": "<s>"},
    )
    file = ChatTemplate.parse({"chat_template": "old", "add_bos_token": True}, "new")
    assert file == ChatTemplate("new", {})
    odd = [5, {"name": ["x"]}, {"name": "tool_use", "template": {}}, *named[:1]]
    assert ChatTemplate.parse({"chat_template": odd}, None) == ChatTemplate("a", {})
    assert ChatTemplate.parse({"chat_template": [5]}, None) is None
