"""Sends chats and completions, whole and streamed, through openai-python. Prints totals as JSON.

Its arguments are the server's address, the number of requests and the length of each answer in
tokens.
"""

import json
import sys
from typing import Any

import openai

GREEDY = {"model": "demo", "temperature": 0, "extra_body": {"ignore_eos": True}}


def main() -> None:
    """Send the requests, and print the totals."""
    base, requests, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    client = openai.OpenAI(base_url=f"{base}/v1", api_key="none")
    found = {"requests": 0, "prompt": 0, "completion": 0, "accepted": 0, "drafted": 0}
    for number in range(requests):
        used = ask(client, number, tokens)
        details = used.completion_tokens_details
        found["requests"] += 1
        found["prompt"] += used.prompt_tokens
        found["completion"] += used.completion_tokens
        found["accepted"] += details.accepted_prediction_tokens
        found["drafted"] += details.accepted_prediction_tokens
        found["drafted"] += details.rejected_prediction_tokens
    print(json.dumps(found))


def ask(client: openai.OpenAI, number: int, tokens: int) -> Any:
    """Send one request and return its usage. The kind of the request depends on `number`."""
    say = [{"role": "user", "content": f"def f{number}("}]
    text = f"def f{number}("
    if number % 4 == 0:
        return client.completions.create(prompt=text, max_tokens=tokens, **GREEDY).usage
    if number % 4 == 1:
        return client.chat.completions.create(messages=say, max_tokens=tokens, **GREEDY).usage
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": tokens}
    if number % 4 == 2:
        chunks = list(client.completions.create(prompt=text, **options, **GREEDY))
    else:
        chunks = list(client.chat.completions.create(messages=say, **options, **GREEDY))
    return chunks[-1].usage


main()
