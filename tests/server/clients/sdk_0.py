"""Calls the server in the environment with the openai SDK 0.28, and prints the results."""

import json
import sys
from pathlib import Path

import openai

image = Path(sys.argv[1]).read_bytes()
answers = []
for n in (1, 10):
    for size in ("256x256", "512x512", "1024x1024"):
        for form in ("url", "b64_json"):
            response = openai.Image.create_variation(
                image=image, n=n, size=size, response_format=form
            )
            answers.append([n, size, form, [item[form] for item in response["data"]]])

failing = {
    400: lambda: openai.Image.create_variation(image=image, size="1x1"),
    401: lambda: openai.Image.create_variation(image=image, api_key="sk-wrong"),
    404: lambda: openai.Model.retrieve("gpt-9"),
    429: lambda: openai.Image.create_variation(image=image, user="limit-raised"),
    500: lambda: openai.Image.create_variation(image=image, user="fail-raised"),
}
errors = {}
for status, call in failing.items():
    try:
        call()
    except openai.error.OpenAIError as error:
        errors[status] = [type(error).__name__, error.http_status, error.code]
# This SDK does not retry.
print(json.dumps({"answers": answers, "errors": errors, "retried": []}))
