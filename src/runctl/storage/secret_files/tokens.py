"""Tokens that tell by their form whose they are. Each is found wherever it stands, in text or not.

A form is matched where one of its `signs` is in a long word at all: looking for those costs next to nothing.
"""

# ruff: noqa: E501 (a table)

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import msgspec


class Form(msgspec.Struct, frozen=True):
    """A vendor's token: what it is called, what is always in it, how it looks."""

    kind: str
    signs: tuple[bytes, ...]
    expression: bytes


def _form(kind: str, signs: str, expression: str) -> Form:
    whole = rf"(?<![A-Za-z0-9]){expression}"
    return Form(kind, tuple(sign.encode() for sign in signs.split()), whole.encode())


# Lengths are the least that a vendor gives out: a longer token is one, too.
FORMS = (
    _form("a GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{30,}"),
    _form("a GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{40,}"),
    _form(
        "a GitLab token",
        "glpat- gloas- gldt- glrt- glcbt- glptt- glft- glsoat- glimt- glagent- GR1348941",
        r"(?:gl(?:pat|oas|dt|rt|cbt|ptt|ft|soat|imt|agent)-[A-Za-z0-9_.-]{20,}|GR1348941[A-Za-z0-9_-]{20})",
    ),
    _form("a Hugging Face token", "hf_ api_org_", r"(?:hf|api_org)_[A-Za-z0-9]{30,}(?![A-Za-z0-9_])"),
    _form("an Anthropic key", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{20,}"),
    _form(
        "an OpenAI key",
        "sk-",
        r"sk-(?:(?:proj|svcacct|admin|None|or-v1|lf|litellm|or)-[A-Za-z0-9_-]{20,}|(?=[A-Za-z]*[0-9])[A-Za-z0-9]{32,})",
    ),
    _form("a Slack token", "xox", r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}"),
    _form("a Slack token", "xapp-", r"xapp-[0-9]-[A-Za-z0-9-]{20,}"),
    _form(
        "a webhook's address",
        "hooks.slack.com discord discordapp webhook.office.com hooks.zapier.com chat.googleapis.com "
        "oapi.dingtalk.com open.feishu.cn",
        r"(?:hooks\.slack\.com/(?:services|workflows|triggers)/T[A-Za-z0-9_]+/[A-Za-z0-9_/]{15,}"
        r"|discord(?:app)?\.com/api(?:/v[0-9]+)?/webhooks/[0-9]{15,}/[A-Za-z0-9_-]{30,}"
        r"|[a-z0-9-]+\.webhook\.office\.com/webhookb2/[A-Za-z0-9@-]{30,}"
        r"|hooks\.zapier\.com/hooks/catch/[0-9]+/[a-z0-9]+"
        r"|chat\.googleapis\.com/v1/spaces/[A-Za-z0-9_-]+/messages\?key=[A-Za-z0-9_-]{20,}"
        r"|oapi\.dingtalk\.com/robot/send\?access_token=[a-f0-9]{40,}"
        r"|open\.feishu\.cn/open-apis/bot/v2/hook/[a-f0-9-]{30,})",
    ),
    _form("a Telegram bot's token", ":A", r"(?:bot)?[0-9]{8,10}:A[A-Za-z0-9_-]{34}(?![A-Za-z0-9_-])"),
    _form("a Discord bot's token", "M N O", r"[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}(?![A-Za-z0-9_.-])"),
    _form("a Stripe key", "_live_ _test_ whsec_", r"(?:(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9+/]{24,})"),
    _form("a Twilio key", "SK", r"SK[0-9a-f]{32}(?![0-9A-Za-z])"),
    _form("a SendGrid key", "SG.", r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{30,}"),
    _form("a Mailgun key", "key-", r"key-[0-9a-f]{32}(?![0-9A-Za-z])"),
    _form("a Mailchimp key", "-us", r"[0-9a-f]{32}-us[0-9]{1,2}(?![0-9A-Za-z])"),
    _form("an npm token", "npm_", r"npm_[A-Za-z0-9]{30,}"),
    _form("a PyPI token", "pypi-", r"pypi-Ag[A-Za-z0-9_-]{30,}"),
    _form("a RubyGems key", "rubygems_", r"rubygems_[0-9a-f]{40,}"),
    _form("a crates.io token", "cio", r"cio[A-Za-z0-9]{32}(?![A-Za-z0-9])"),
    _form("a Docker token", "dckr_", r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}"),
    _form("a Databricks token", "dapi dose", r"(?:dapi|dose)[0-9a-f]{32}(?:-[0-9])?(?![0-9A-Za-z])"),
    _form("a Google key", "AIza", r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    _form("a Google OAuth secret", "GOCSPX- ya29. 1//0", r"(?:GOCSPX-[A-Za-z0-9_-]{20,}|ya29\.[A-Za-z0-9_-]{30,}|1//0[A-Za-z0-9_-]{40,})"),
    _form("a DigitalOcean token", "_v1_", r"do[opr]_v1_[0-9a-f]{40,}"),
    _form("a Replicate token", "r8_", r"r8_[A-Za-z0-9]{30,}"),
    _form("a Weights & Biases key", "wandb_v", r"wandb_v[0-9]_[A-Za-z0-9_]{30,}"),
    _form("a Groq key", "gsk_", r"gsk_[A-Za-z0-9]{40,}"),
    _form("an xAI key", "xai-", r"xai-[A-Za-z0-9]{40,}"),
    _form("a Perplexity key", "pplx-", r"pplx-[A-Za-z0-9]{32,}"),
    _form("an NVIDIA key", "nvapi-", r"nvapi-[A-Za-z0-9_-]{40,}"),
    _form("a LangSmith key", "lsv2_ ls__", r"(?:lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{8,}|ls__[0-9a-f]{32})"),
    _form("a Pinecone key", "pcsk_", r"pcsk_[A-Za-z0-9]{4,}_[A-Za-z0-9]{40,}"),
    _form("a RunPod key", "rpa_", r"rpa_[A-Z0-9]{32,}"),
    _form("a Fireworks key", "fw_", r"fw_[A-Za-z0-9]{22,24}(?![A-Za-z0-9_])"),
    _form("a Voyage key", "pa-", r"pa-[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"),
    _form("a Jina key", "jina_", r"jina_[A-Za-z0-9_-]{40,}"),
    _form("a Tavily key", "tvly-", r"tvly-[A-Za-z0-9-]{20,}"),
    _form("an ElevenLabs key", "sk_", r"sk_[0-9a-f]{48}(?![0-9A-Za-z])"),
    _form("a Lightning or Modal token", "ak- as-", r"a[ks]-[A-Za-z0-9]{22}(?![A-Za-z0-9_-])"),
    _form("a Notion token", "ntn_ secret_", r"(?:ntn_[A-Za-z0-9]{40,}|secret_[A-Za-z0-9]{43}(?![A-Za-z0-9]))"),
    _form("a Linear key", "lin_", r"lin_(?:api|oauth)_[A-Za-z0-9]{32,}"),
    _form("an Airtable token", "pat", r"pat[A-Za-z0-9]{14}\.[0-9a-f]{60,}"),
    _form("a Postman key", "PMAK-", r"PMAK-[0-9a-f]{24}-[0-9a-f]{30,}"),
    _form("a Shopify token", "shp", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    _form("a New Relic key", "NRAK- NRII- NRJS- NRAL", r"NR(?:AK|II|JS|RA)-[A-Za-z0-9_-]{18,}"),
    _form("a Sentry token", "sntrys_ sntryu_", r"sntry[su]_[A-Za-z0-9+/=_-]{40,}"),
    _form("a Grafana token", "glsa_ glc_", r"(?:glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}|glc_[A-Za-z0-9+/=]{32,})"),
    _form("a Doppler token", "dp.", r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9_.-]{40,}"),
    _form("a Prefect key", "pnu_ pnb_", r"pn[ub]_[A-Za-z0-9]{36}"),
    _form("a Terraform Cloud token", ".atlasv1.", r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{40,}"),
    _form("a Pulumi token", "pul-", r"pul-[0-9a-f]{40}"),
    _form("a HashiCorp Vault token", "hvs. hvb. hvr.", r"hv[sbr]\.[A-Za-z0-9_-]{24,}"),
    _form("a Fly.io token", "fo1_ Fo1_ fm", r"(?:[Ff]o1_[A-Za-z0-9_-]{40,}|fm[0-9]_[A-Za-z0-9+/=]{40,})"),
    _form("a Supabase key", "sbp_ sb_secret_", r"(?:sbp_[0-9a-f]{40}|sb_secret_[A-Za-z0-9_-]{20,})"),
    _form("a PlanetScale token", "pscale_", r"pscale_(?:pw|tkn|oauth)_[A-Za-z0-9_.-]{32,}"),
    _form("a Tailscale key", "tskey-", r"tskey-[a-z]+-[A-Za-z0-9]{8,}-[A-Za-z0-9]{16,}"),
    _form("an Atlassian token", "ATATT ATCTT ATBB", r"(?:ATATT3[A-Za-z0-9_=-]{50,}|ATCTT3[A-Za-z0-9_=-]{50,}|ATBB[A-Za-z0-9]{32})"),
    _form("a Square token", "sq0", r"sq0(?:atp|csp)-[A-Za-z0-9_-]{22,}"),
    _form("a Dropbox token", "sl.", r"sl\.[A-Za-z0-9_-]{100,}"),
    _form("an Alibaba Cloud key", "LTAI", r"(?<![+/])LTAI[A-Za-z0-9]{12,24}(?![A-Za-z0-9])"),
    _form("a Tencent Cloud key", "AKID", r"(?<![+/])AKID[A-Za-z0-9]{32}(?![A-Za-z0-9])"),
    _form("an age key", "AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[0-9A-Z]{40,}"),
    _form("a JSON web token", "eyJ", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}"),
    _form("an Azure client secret", "Q~", r"[A-Za-z0-9_.~-]{3}[0-9]Q~[A-Za-z0-9_.~-]{31,34}(?![A-Za-z0-9_.~-])"),
    _form("an AWS access key", "AKIA ASIA", r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9/+=])"),
    _form("an AWS Bedrock key", "ABSK bedrock-api-key-", r"(?<![+/])(?:ABSK[A-Za-z0-9+/=]{60,}|bedrock-api-key-[A-Za-z0-9+/=]{20,})"),
)  # fmt: skip

_SHORTEST, _LETTERS_ALONE = 16, 30
_PLAIN = bytes(
    byte if chr(byte) in "_+/=.:~?@-" or (byte < 128 and chr(byte).isalnum()) else 32 for byte in range(256)
)

_FILLER = re.compile(
    rb"([xX*._0-])\1{7,}|(?i:example|placeholder|redacted|changeme|change_me|dummy|your[_-]|[_-]here\b)"
)
"""What stands for a token in documents, and is none."""


def long_words(data: bytes) -> bytes:
    """The words of a text that are long enough for a token and are no plain ones; most code has few."""
    words = [word for word in data.translate(_PLAIN).split() if len(word) >= _SHORTEST]
    return b" ".join(word for word in words if not _is_plain(word))


def find(data: bytes, words: bytes) -> Iterator[tuple[int, str]]:
    """Where in the data a token stands, and whose it is; `words` are its long ones."""
    expression, by_sign = _signs()
    for form in dict.fromkeys(form for sign in set(expression.findall(words)) for form in by_sign[sign]):
        for match in _compiled(form.expression).finditer(data):
            if not is_filler(match[0]):
                yield match.start(), form.kind


@cache
def _signs() -> tuple[re.Pattern[bytes], dict[bytes, list[Form]]]:
    """All signs at once, each with its forms; one that begins another one stands for that, too."""
    every = sorted({sign for form in FORMS for sign in form.signs})
    found = {
        sign: [form for form in FORMS if any(one.startswith(sign) for one in form.signs)] for sign in every
    }
    shortest = [sign for sign in every if not any(sign != one and sign.startswith(one) for one in every)]
    return re.compile(b"(?=(" + b"|".join(map(re.escape, shortest)) + b"))"), found


@cache
def _compiled(expression: bytes) -> re.Pattern[bytes]:
    """Most of them are never needed."""
    return re.compile(expression)


def _is_plain(word: bytes) -> bool:
    """A name of letters: without a digit in it only long and mixed ones may be a token."""
    if word.translate(None, b"0123456789") != word:
        return False
    return len(word) < _LETTERS_ALONE or word == word.lower() or word == word.upper()


def is_filler(token: bytes) -> bool:
    """Whether a word is only an example of one: a single letter again and again, or words that say so."""
    return _FILLER.search(token) is not None
