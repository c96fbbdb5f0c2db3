"""Calls the server in the environment with the openai SDK 1.x or 2.x, and prints the results."""

import json
import sys
from pathlib import Path

import openai

image = Path(sys.argv[1])
client = openai.OpenAI(max_retries=0)
answers = []
for n in (1, 10):
    for size in ("256x256", "512x512", "1024x1024"):
        for form in ("url", "b64_json"):
            response = client.images.create_variation(
                image=image, n=n, size=size, response_format=form
            )
            answers.append([n, size, form, [getattr(item, form) for item in response.data]])

wrong = client.with_options(api_key="sk-wrong")
failing = {
    400: lambda: client.images.create_variation(image=image, size="1x1"),
    401: lambda: wrong.images.create_variation(image=image),
    404: lambda: client.models.retrieve("gpt-9"),
    429: lambda: client.images.create_variation(image=image, user="limit-raised"),
    500: lambda: client.images.create_variation(image=image, user="fail-raised"),
}
errors = {}
for status, call in failing.items():
    try:
        call()
    except openai.APIStatusError as error:
        errors[status] = [type(error).__name__, error.status_code, error.code]

patient = client.with_options(max_retries=2)
retried = [
    len(patient.images.create_variation(image=image, user=user).data)
    for user in ("limit-retried", "fail-retried")
]
print(json.dumps({"answers": answers, "errors": errors, "retried": retried}))
