"""Secrets leave a document before it is stored, and nothing else does.

Every secret here is generated when the test runs, so that no scanner of repositories takes this file for a leak.
"""

from __future__ import annotations

import base64
import json
import random
import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_twin.core.records import Document, Redaction
from llm_twin.features.redact import SecretRedactor

RANDOM = random.Random(20260102)
HEX = "0123456789abcdef"
ALNUM = string.ascii_letters + string.digits


def some(count, alphabet=ALNUM):
    """Random characters with at least one digit and one letter among them."""
    while True:
        text = "".join(RANDOM.choices(alphabet, k=count))
        if any(c.isdigit() for c in text) and any(c.isalpha() for c in text):
            return text


def url64(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def private_key(label):
    body = "\n".join(some(64, ALNUM + "+/") for _ in range(6))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"


UPPER = string.ascii_uppercase + string.digits
JWT = ".".join([url64(b'{"alg":"HS256"}'), url64(b'{"sub":"1234567890","name":"M"}'), some(43)])
SECRETS = {
    "AWS key id": ("key id {}", "AKIA" + some(16, UPPER)),
    "AWS temporary key id": ("export AWS_ACCESS_KEY_ID={}", "ASIA" + some(16, UPPER)),
    "AWS secret, environment": ("AWS_SECRET_ACCESS_KEY={}", some(40, ALNUM + "+")),
    "AWS secret, quoted": ('aws_secret_access_key = "{}"', some(40)),
    "Azure storage": ("DefaultEndpointsProtocol=https;AccountKey={};", some(86, ALNUM + "+/") + "=="),
    "GitHub classic": ("git clone with {} works", "ghp_" + some(36)),
    "GitHub fine-grained": ("GH_TOKEN: {}", "github_pat_" + some(22) + "_" + some(59)),
    "GitLab": ("`{}`", "glpat-" + some(20)),
    "OpenAI": ('openai.api_key = "{}"', "sk-" + some(20) + "T3Blbk" + "FJ" + some(20)),
    "OpenAI project": ("OPENAI_API_KEY={}", "sk-proj-" + some(48)),
    "Anthropic": ("use {} here", "sk-ant-api03-" + some(40)),
    "Google": ("https://maps.example.org/?key={}&x=1", "AIza" + some(35)),
    "Hugging Face": ("huggingface-cli login --token {}", "hf_" + "".join(RANDOM.choices(string.ascii_letters, k=34))),
    "Slack": ("{}", "xoxb-" + some(11, string.digits + "a").replace("a", "7") + "-" + some(24).lower()),
    "Slack webhook": (
        "POST {}",
        "https://hooks.slack.com/services/T" + some(8, UPPER) + "/B" + some(8, UPPER) + "/" + some(24),
    ),
    "Stripe live": ("stripe.api_key = '{}'", "sk_" + "live_" + some(24)),
    "Stripe live, long": ("{}", "sk_" + "live_" + some(99)),
    "Stripe restricted": ("{}", "rk_" + "live_" + some(24)),
    "SendGrid": ("{}", "SG." + some(22) + "." + some(43)),
    "Twilio": ("sid {}", "SK" + some(32, HEX)),
    "Mailchimp": ("{}", some(32, HEX) + "-us12"),
    "Telegram": ("bot {}", "1" + "".join(RANDOM.choices(string.digits, k=9)) + ":" + some(35)),
    "Discord": ("client.run('{}')", "M" + some(23) + "." + some(6) + "." + some(27)),
    "PyPI": ("password = {}", "pypi-AgEIcHlwaS5vcmc" + some(80)),
    "npm": ("//registry.example.org/:_authToken={}", "npm_" + some(36)),
    "Square": ("{}", "sq0csp-" + some(43)),
    "DigitalOcean": ("{}", "dop_v1_" + some(64, HEX)),
    "JWT": ("Authorization: Bearer {}", JWT),
    "JWT ending a sentence": ("The token was {}.", JWT),
    "RSA key": ("{}", private_key("RSA PRIVATE KEY")),
    "OpenSSH key": ("My key:\n\n```\n{}\n```\n\ndone", private_key("OPENSSH PRIVATE KEY")),
    "PGP key": ("{}", private_key("PGP PRIVATE KEY BLOCK")),
    "service account": ('"private_key": "{}\\n"', private_key("PRIVATE KEY").replace("\n", "\\n")),
    "database address": ("DATABASE_URL=postgres://app:{}@db.example.org:5432/app", "tr7" + some(9)),
    "redis address without user": ("redis://:{}@cache:6379/0", some(20)),
    "password in code": ('connect(host="db", password="{}")', "Tr0ub4dor&3"),
    "password in YAML": ("db_password: {}", some(14)),
    "password in JSON": ('{{"password": "{}"}}', "kX9!" + some(6)),
    "password on a command line": ("mysqldump --password={} shop > shop.sql", "v3ry" + some(8)),
    "token in code": ("auth_token: '{}'", some(32, HEX)),
    "API key that is a UUID": ("API_KEY={}", "9f1c2b7e-4d3a-4e5b-8c6d-7e8f9a0b1c2d"),
    "bearer header": ("curl -H 'Authorization: Bearer {}'", some(40)),
    "client secret": ('"client_secret": "{}",', some(28)),
}


def document(text, title="Notes"):
    return Document("d", "Mira", "files", "article", title, text, "h", datetime(2026, 1, 2, tzinfo=UTC))


@pytest.fixture(scope="module")
def redactor():
    return SecretRedactor()


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_taken_out_and_the_rest_of_the_line_stays(redactor, name):
    frame, secret = SECRETS[name]
    before = f"First line.\n\n{frame.format(secret)}\nLast line, with a café.\n"
    redacted, found = redactor.redact(document(before))
    assert len(found) == 1
    marked = f"[redacted:{found[0].kind}]"
    assert redacted.text.count(marked) == 1
    head, tail = redacted.text.split(marked)
    assert before.startswith(head)
    assert before.endswith(tail)
    taken = before[len(head) : len(before) - len(tail)]
    assert secret in taken or taken in secret
    assert not any(secret[start : start + 10] in redacted.text for start in range(10, len(secret) - 9))
    assert found[0].line == before[: len(head)].count("\n") + 1


def test_several_secrets_of_a_document_are_reported_in_order_with_their_lines(redactor):
    first, second = "ghp_" + some(36), "AKIA" + some(16, UPPER)
    redacted, found = redactor.redact(document(f"a {first}\nb\nc {second} d\n", title=f"Leak of {first}"))
    assert redacted.title == "Leak of [redacted:github-token]"
    assert redacted.text == "a [redacted:github-token]\nb\nc [redacted:aws-access-key] d\n"
    assert found == [Redaction("github-token", 0), Redaction("github-token", 1), Redaction("aws-access-key", 3)]


def test_a_private_key_whose_end_is_missing_goes_with_all_its_lines(redactor):
    key = private_key("EC PRIVATE KEY").rsplit("\n", 1)[0]
    redacted, found = redactor.redact(document(f"Look:\n{key}\n\nThat was it.\n"))
    assert redacted.text == "Look:\n[redacted:private-key]\n\nThat was it.\n"
    assert [each.kind for each in found] == ["private-key"]


def test_redacting_twice_changes_nothing_more(redactor):
    text = "\n".join(frame.format(secret) for frame, secret in SECRETS.values())
    once, _ = redactor.redact(document(text))
    assert redactor.redact(once) == (once, [])


def test_a_putty_key_goes_with_its_headers(redactor):
    lines = "\n".join(some(64, ALNUM + "+/") for _ in range(4))
    key = (
        f"PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nComment: mira\nPublic-Lines: 2\n{lines[:129]}\n"
        f"Private-Lines: 2\n{lines[130:]}\nPrivate-MAC: {some(40, HEX)}"
    )
    assert redactor.redact(document(f"a\n{key}\nb"))[0].text == "a\n[redacted:private-key]\nb"


def test_a_megabyte_of_base64_takes_no_unreasonable_time(redactor):
    text = base64.b64encode(random.Random(7).randbytes(750_000)).decode()
    assert redactor.redact(document(f"![](data:image/png;base64,{text})"))[1] == []


@pytest.mark.parametrize(
    "text",
    [
        "A file begins with `-----BEGIN RSA PRIVATE KEY-----`. Then comes base64, in lines of 64 characters, and it\n"
        "says so in RFC 7468, which everybody quotes and few have read.\n\nIt ends with -----END RSA PRIVATE KEY-----.",
        '<div class="sk-three-bounce-spinner-with-quite-a-long-class-name">',
        "Fixed in commit 3f786850e387550fdab836ed7e6dc881de23001b, see 89e6c98d92887913cadf06b2adb97f26cde4849b.",
        "id: 9f1c2b7e-4d3a-4e5b-8c6d-7e8f9a0b1c2d",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        '<script integrity="sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/uxy9rx7HNQlGYl1kPzQho1wx4JwY8wC"></script>',
        "![dot](data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==)",
        "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        'api_key = os.environ["OPENAI_API_KEY"]',
        "OPENAI_API_KEY=<YOUR_KEY>\nGITHUB_TOKEN=${{ secrets.GITHUB_TOKEN }}\nTOKEN=xxxxxxxxxxxxxxxxxxxx",
        'openai.api_key = "sk-..."',
        "POSTGRES_PASSWORD: postgres\nDATABASE_URL=postgres://postgres:postgres@localhost:5432/postgres",
        "def login(user: str, password: str = None) -> Token: ...",
        "self.password = password or getpass.getpass()",
        'tokenizer.pad_token = tokenizer.eos_token\nspecial_tokens_map: "<|endoftext|>"\nmax_tokens: 1024',
        'model = "text-embedding-3-small"  # token limit: 8191-tokens-per-request',
        "client_secret: clientSecret2,",
        "The password is the secret to everything, said the token ring.",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "Call +41 44 123 45 67 at 10:30:00 or write to mira@example.org.",
        "http://localhost:8000/@mira and https://github.com/a/b@v1.2.3 and git@github.com:a/b.git",
        "npm install @types/node@20.11.5 eslint-plugin-react-hooks@4.6.0",
    ],
)
def test_what_authors_write_about_in_technical_texts_stays(redactor, text):
    assert redactor.redact(document(text)) == (document(text), [])


@given(st.text())
def test_any_text_is_left_as_it_is_or_its_redactions_are_reported(text):
    redacted, found = SecretRedactor().redact(document(text))
    assert (redacted.text == text) == (not found)


def test_the_fingerprint_is_stable_between_redactors(redactor):
    assert SecretRedactor().fingerprint == redactor.fingerprint


@pytest.mark.parametrize(
    ("blog", "real_key_ids"), [("blog-matklad", 0), ("blog-simonw-til", 3), ("blog-jakearchibald", 0)]
)
def test_in_three_real_blogs_only_real_looking_key_ids_are_found(redactor, corpus, blog, real_key_ids):
    texts = [json.loads(line)["text"] for line in corpus(f"{blog}/posts.jsonl").read_text("utf-8").splitlines()]
    kinds = [each.kind for text in texts for each in redactor.redact(document(text))[1]]
    assert kinds == ["aws-access-key"] * real_key_ids
