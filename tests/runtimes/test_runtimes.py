"""What every runtime does alike, and the registry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from snugfit.core import Configuration
from snugfit.errors import RuntimeFailure, UsageError
from snugfit.runtimes import PARTS, RUNTIMES, Runtime, create_runtime
from snugfit.runtimes.base import plain_prompt
from snugfit.runtimes.fake import FakeRuntime

CONFIGURATION = Configuration(ctx=512)
LOADABLE = ["fake", "llama.cpp"]  # the runtimes that this suite can start anywhere


@pytest.fixture(params=LOADABLE)
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    if request.param == "llama.cpp":
        yield request.getfixturevalue("engine")
    else:
        with FakeRuntime().start("any.gguf", CONFIGURATION) as fake:
            yield fake


def test_generate_answers_and_counts_tokens(runtime: Runtime) -> None:
    answer = runtime.generate("the thing", max_tokens=9, temperature=0)
    assert answer.generated_tokens == len(answer.tokens) == 9
    assert answer.prompt_tokens > 0
    assert answer.text
    assert answer.allocated == runtime.allocated()


def test_greedy_answers_are_the_same_twice_and_for_any_seed(runtime: Runtime) -> None:
    first = runtime.generate("the", max_tokens=32, temperature=0, seed=1)
    second = runtime.generate("the", max_tokens=32, temperature=0, seed=2)
    assert (first.text, first.tokens) == (second.text, second.tokens)


def test_a_prompt_may_be_token_ids(runtime: Runtime) -> None:
    tokens = runtime.tokenize("the thing")
    from_tokens = runtime.generate(tokens, max_tokens=8, temperature=0)
    assert from_tokens.tokens == runtime.generate("the thing", 8, temperature=0).tokens


def test_streamed_pieces_make_up_the_answer(runtime: Runtime) -> None:
    pieces: list[str] = []
    streamed = runtime.generate("the", max_tokens=16, temperature=0, on_text=pieces.append)
    whole = runtime.generate("the", max_tokens=16, temperature=0)
    assert len(pieces) > 1
    assert "".join(pieces) == streamed.text == whole.text
    assert streamed.tokens == whole.tokens


def test_chat_answers_and_streams(runtime: Runtime) -> None:
    pieces: list[str] = []
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    answer = runtime.chat(messages, max_tokens=8, temperature=0, on_text=pieces.append)
    assert answer.text == "".join(pieces)
    assert answer.generated_tokens == 8


def test_a_broken_message_is_one_line(runtime: Runtime) -> None:
    with pytest.raises((RuntimeFailure, UsageError), match=r"^[^\n]*content[^\n]*$"):
        runtime.chat([{"role": "user"}])
    assert runtime.generate("the", max_tokens=1).generated_tokens == 1


def test_an_exception_while_streaming_passes_on_and_leaves_the_runtime_usable(
    runtime: Runtime,
) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime.generate("the", max_tokens=500, temperature=0, on_text=interrupt)
    assert runtime.generate("the", max_tokens=2, temperature=0).generated_tokens == 2


def test_allocated_has_every_part(runtime: Runtime) -> None:
    assert tuple(runtime.allocated()) == PARTS


@pytest.mark.parametrize("name", LOADABLE)
def test_without_a_model_every_call_says_so_and_close_is_harmless(name: str) -> None:
    runtime = create_runtime(name)
    runtime.close()
    for call in (lambda: runtime.generate("x"), lambda: runtime.tokenize("x"), runtime.allocated):
        with pytest.raises(RuntimeFailure, match="no model is loaded"):
            call()


def test_every_registered_runtime_can_be_created() -> None:
    for name in RUNTIMES:
        create_runtime(name).close()
    with pytest.raises(UsageError, match=r"'vlm' is not a runtime. Choose one of llama\.cpp, fake"):
        create_runtime("vlm")


def test_importing_the_runtimes_loads_nothing_heavy() -> None:
    code = (
        "import sys, snugfit.runtimes, snugfit.runtimes.llama_cpp_child\n"
        "print([name for name in ('numpy', 'xllamacpp', 'gguf', 'torch') if name in sys.modules])"
    )
    path = str(Path(__file__).parents[2] / "src")
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=path
    )
    assert shown.stdout.strip() == "[]"


def test_a_conversation_without_a_template_is_a_line_a_message() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert plain_prompt(messages) == "user: Hi\nassistant:"


def test_the_fake_follows_its_script_and_records_what_was_asked() -> None:
    failure = RuntimeFailure("model.gguf: it went away. Start it again.")
    script = ["one", failure, "two two"]
    with FakeRuntime(script, {"weights": 7}).start("m.gguf", CONFIGURATION) as fake:
        assert fake.generate("first").text == "one"
        with pytest.raises(RuntimeFailure, match="went away"):
            fake.generate("second")
        assert [fake.generate("third").text, fake.generate([97, 98]).text] == ["two two"] * 2
        assert fake.prompts == ["first", "second", "third", "ab"]
        assert fake.allocated()["weights"] == 7
