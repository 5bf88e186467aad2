"""Contract under test: the cuda backend with the draft's lane in the host's memory. The CUDA
runtime is fake_cuda.cc, whose streams are threads.

- Rounds that are enqueued ahead give the values that one thread gives.
- Each mail is needed.
- Each wait is needed: the waits of round.cc, of the device for the host, of the host for the
  device, and of a record for the copies before it.
- An exception of the draft reaches the host.
- If the device breaks, no worker waits for ever.
"""

import pytest

ROUND, DEVICE, HOST = "round/round.cc", "exec/cuda/cuda_stream.cc", "exec/cuda/host_stream.cc"
MAILS = ("verdict", "burst", "offer")
# {wait: (file, a text of the file that makes the wait, the text without it)}
WAITS = {
    "chain_ready": (ROUND, "  if (shape.burst > 0) t.wait(fences.chain_ready, r);\n", ""),
    "draft_ready": (ROUND, "  if (shape.gamma > 0) t.wait(fences.draft_ready, r);\n", ""),
    "verify_done": (ROUND, "  d.wait(fences.verify_done, r - 1);\n", ""),
    "the device for the host": (
        DEVICE,
        'checked(await_on(stream_, body.there(), value), "await");',
        "",
    ),
    "the host for the device": (HOST, "event.reached() < value; ++turn", "false; ++turn"),
    "a copy": (HOST, 'checked(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");', ""),
}


@pytest.fixture(scope="module")
def plain(fake):
    return fake("host_lane_main")


def test_rounds_are_those_of_one_thread(programs, plain):
    done = programs.run(plain, "rounds", 1500)
    assert done.stdout == "ok rounds\n", done.stdout + done.stderr


@pytest.mark.parametrize("mail", MAILS)
def test_each_mail_is_needed(programs, plain, mail):
    done = programs.run(plain, "rounds", 20, mail)
    assert done.stdout.startswith("FAILED: rounds: "), done.stdout + done.stderr


@pytest.mark.parametrize("part", ["throws", "breaks"])
def test_a_failure_ends_no_wait_but_its_own(programs, plain, part):
    done = programs.run(plain, part)
    assert done.stdout == f"ok {part}\n", done.stdout + done.stderr


@pytest.mark.parametrize("part", ["rounds", "throws", "breaks"])
def test_thread_sanitizer_has_nothing_to_say(fake, programs, tsan, part):
    done = programs.run(fake("host_lane_main", tsan), part, 1000, **programs.reporting("tsan"))
    assert done.stdout == f"ok {part}\n", done.stdout + done.stderr


def test_each_text_is_in_the_code(programs):
    """The test below is not in `make test`, so this one finds texts that have changed."""
    texts = [wait[:2] for wait in WAITS.values()]
    assert [programs.text(file).count(wait) for file, wait in texts] == [1] * len(texts)


@pytest.mark.exact
@pytest.mark.sanitize
@pytest.mark.parametrize("name", WAITS)
def test_each_wait_is_needed(fake, programs, tsan, name):
    file, wait, instead = WAITS[name]
    text = programs.text(file)
    assert text.count(wait) == 1
    program = fake("host_lane_main", tsan, {file: text.replace(wait, instead)})
    done = programs.run(program, "rounds", 2000, **programs.reporting("tsan"))
    assert done.returncode != 0, done.stdout
    assert "ThreadSanitizer: data race" in done.stderr or "FAILED: rounds: " in done.stdout
