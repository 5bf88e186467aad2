"""Contract under test: a conversation becomes the text that transformers makes of it, wherever the
template comes from. A hostile template cannot access anything and is refused in one sentence."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sbrt import InvalidInputError
from sbrt.model.generation_config import Defaults
from sbrt.model.tokenizer import Tokenizer as EngineTokenizer
from sbrt.server.protocol import Limits, chat_ask
from sbrt.server.service import Service, Settings
from sbrt.server.templates import ChatTemplate, Conversation, read_template

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
LLAMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{% set system = messages[0]['content'] %}{% set loop_messages = messages[1:] %}{% else %}
{% set system = '' %}{% set loop_messages = messages %}{% endif %}
{% for m in loop_messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}{% endif %}
{% if m['role'] == 'user' %}{{ '[INST] ' + system ~ m['content'] | trim + ' [/INST]' }}
{% else %}{% generation %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endgeneration %}{% endif %}
{% endfor %}"""
HELPERS = """{% macro shown(m) %}{{ m | tojson }}{{ m | tojson(indent=2) }}{% endmacro %}
{% set ns = namespace(last='', n=0) %}
  {% for m in messages %}
    {% if m.role == 'skip' %}{% continue %}{% endif %}
    {% set ns.last = m.content %}{% set ns.n = ns.n + 1 %}
    {{ shown(m) }}
    {% if ns.n > 3 %}{% break %}{% endif %}
  {% endfor %}
{{ ns.last.split()[-1:] | join('-') }}{{ ns.n * '=' }}{{ dict(a=1, b=[2]) | tojson }}
{{ thinking if thinking is defined else 'none' }}{{ pad_token }}{{ tools is none }}
{{ strftime_now('%%') }}{{ 'x' ~ ns.n ~ ('y' ~ 1) }}{{ '%s-%02d' % ('a', 3) }}{{ 2 ** 3 }}"""
REASONING = (
    "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.content }}{% endfor %}"
)
CHATS = [
    [{"role": "user", "content": "hi"}],
    [
        {"role": "system", "content": "Be brief. "},
        {"role": "user", "content": " Wie heißt <du>? "},
        {"role": "assistant", "content": "日本語 🙂"},
        {"role": "user", "content": "a 'quoted' & \"text\"\n"},
    ],
    [
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "three", "reasoning": "because"},
    ],
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Return theirs(template, chat, **more), which returns the text that transformers makes."""
    transformers = pytest.importorskip("transformers")

    library = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **TOKENS)

    def render(template, chat, **more):
        given = {"add_generation_prompt": True, **more}
        return fast.apply_chat_template(chat, chat_template=template, tokenize=False, **given)

    return render


def ours(template, chat, adds_prompt=True, continues=False, **more):
    return ChatTemplate(template, "the test", TOKENS).render(
        Conversation(chat, adds_prompt, continues, more)
    )


@pytest.mark.parametrize("template", [CHATML, LLAMA, HELPERS, REASONING])
@pytest.mark.parametrize("chat", CHATS, ids=["one", "four", "two"])
@pytest.mark.parametrize("adds_prompt", [True, False])
def test_the_text_is_that_of_transformers(theirs, template, chat, adds_prompt):
    want = theirs(template, chat, add_generation_prompt=adds_prompt, thinking=True)
    assert ours(template, chat, adds_prompt, thinking=True) == want


TRIMS = CHATML.replace("message.content", "message.content | trim")


@pytest.mark.parametrize("template", [CHATML, LLAMA, TRIMS])
@pytest.mark.parametrize("ending", ["", " ", "\n", " goes on"])
def test_a_last_message_that_goes_on(theirs, template, ending):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"well{ending}"}]
    more = {"add_generation_prompt": False, "continue_final_message": True}
    assert ours(template, chat, False, True) == theirs(template, chat, **more)


def test_a_last_message_that_the_template_leaves_out_cannot_go_on():
    with pytest.raises(InvalidInputError, match="continue_final_message"):
        ours("{{ messages[0].content }}", CHATS[2], False, True)
    with pytest.raises(InvalidInputError, match="continue_final_message"):
        ours("no place for it", CHATS[2], False, True)


HOSTILE = [
    "{{ ''.__class__ }}{{ ''.__class__.__mro__ }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ (messages | map(attribute='__class__') | first).mro() }}",
    "{{ '{0.__class__}'.format(messages) | length / 0 }}",
    "{% for k in lipsum.__globals__ %}{{ k }}{% endfor %}",
    "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context.environment }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% extends '/etc/passwd' %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}"
    "{% endfor %}",
    "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}"
    "{% endfor %}",
    "{{ 'x' * 10 ** 12 }}",
    "{{ 2 ** 10000000000 }}",
    "{{ [0] * 10 ** 12 }}",
    "{{ '%1000000000000d' % 1 }}",
    "{{ range(10 ** 12) | list }}",
    "{% for i in range(90000) %}{{ 'x' * 1000 }}{% endfor %}",
    "{{ raise_exception('roles must alternate') }}",
    "{{ undefined_name.attribute }}",
    "{{ 1 / 0 }}",
    "{{ 'x' | no_such_filter }}",
    "{% if %}",
    "{{ " + "(" * 5000,
]


@pytest.mark.parametrize("template", HOSTILE, ids=lambda t: t[:40])
def test_a_hostile_template_is_refused_in_a_sentence(template):
    chat = [{"role": "user", "content": "hi"}]
    said = "chat_template: expected one that takes these messages, got: "
    try:
        text = ours(template, chat)
    except InvalidInputError as error:
        text, said = "", str(error)
    assert text == ""  # values that the sandbox forbids are undefined, and render as nothing
    assert said.startswith("chat_template: expected one that takes these messages, got: ")
    assert len(said) < 400
    assert "\n" not in said
    assert chat == [{"role": "user", "content": "hi"}]


def test_variables_that_are_the_server_s_are_refused():
    with pytest.raises(InvalidInputError, match=r"chat_template_kwargs: .* got messages"):
        ChatTemplate(CHATML, "x", TOKENS).render(Conversation(CHATS[0], more={"messages": []}))


def write(folder, config, jinja=None, special=None):
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if jinja is not None:
        (folder / "chat_template.jinja").write_text(jinja)
    if special is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return read_template(folder / "tokenizer.json")


def test_where_a_folder_keeps_its_template(tmp_path):
    config = {"bos_token": {"content": "<b>"}, "eos_token": "</b>", "chat_template": "one"}
    found = write(tmp_path, config)
    assert (found.text, found.tokens) == ("one", {"bos_token": "<b>", "eos_token": "</b>"})
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "two"}]
    assert write(tmp_path, {"chat_template": named}).text == "two"
    assert write(tmp_path, {}, special={"pad_token": "<p>"}).tokens == {"pad_token": "<p>"}
    assert write(tmp_path, {"chat_template": "one"}, jinja="three").text == "three"
    for wrong in (5, [], [{"name": "x"}], {"default": "x"}):
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
        with pytest.raises(InvalidInputError, match="chat_template"):
            write(tmp_path, {"chat_template": wrong})


def test_a_model_without_a_template_says_so(tmp_path):
    found = write(tmp_path, {"bos_token": "<b>"})
    with pytest.raises(InvalidInputError, match="it has none; use /v1/completions"):
        found.render(Conversation(CHATS[0]))


def test_the_template_of_a_gguf_file(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(LLAMA)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_template(tmp_path / "model.gguf")
    assert found.text == LLAMA
    assert found.tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert found.render(Conversation(CHATS[0])) == ours(LLAMA, CHATS[0])


@pytest.mark.parametrize("template", ["{{ bos_token }}a b", "a b"])
def test_a_begin_token_is_never_there_twice(tmp_path, template):
    """The begin-of-sequence token comes from the template or, with add_special_tokens, from the
    tokenizer. The prompt never has it twice."""
    words = {"<unk>": 0, "<s>": 1, "a": 2, "b": 3}
    library = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens(["<s>"])
    library.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "chat_template": template})
    )
    pair = SimpleNamespace(tokenizer=EngineTokenizer(tmp_path / "tokenizer.json"))
    config = SimpleNamespace(max_num_seqs=1)
    engine = SimpleNamespace(pair=pair, config=config, max_model_len=64)
    service = Service(Settings())
    service.open(SimpleNamespace(engine=engine, is_running=True))

    def ids(**fields):
        given = {"messages": [{"role": "user", "content": "x"}], **fields}
        return asyncio.run(service.chat_ids(chat_ask(given, Defaults(), Limits())))

    begin = [1] if "bos_token" in template else []
    assert ids() == [*begin, 2, 3]
    assert ids(add_special_tokens=True) == [1, 2, 3]
