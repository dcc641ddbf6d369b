"""Hiding keys and passwords in text that leaves the machine: by the names they stand under, by their shape, and by their known values.

No such list is complete. What is known to be a secret (the values of the environment's own secret variables) is removed wherever it
stands; the rest errs on the side of hiding too much.
"""

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
# Names under which secrets stand. Not `tokens` (a setting of image encoders, a speed) and not an authentication mode.
_NAME = (
    r"(?:secret|passw|passphrase|pwd|credential|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key|signature|cookie|webhook|dsn"
    r"|authorization|connection[_-]?string|token(?!s|iz|_type|_per)|\bsig\b|_key\b)"
)
SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/\s@'\"<>]+(?:@(?=[^/\s@'\"<>]*@)[^/\s@'\"<>]*)*(?=@)")
_ASSIGNED = re.compile(
    rf"""(?P<name>["']?(?:[A-Za-z0-9_.-]*{_NAME}[A-Za-z0-9_.-]*)["']?\s*(?:=|:)\s*)(?P<value>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&)\]}}"']+)""",
    re.IGNORECASE,
)
_ARGUMENT = re.compile(
    rf"""(?P<name>--?[A-Za-z0-9-]*{_NAME}[A-Za-z0-9-]*["']?(?:,\s*|\s+)["']?)(?P<value>[^\s"'-][^\s"']*)""", re.IGNORECASE
)
_SCHEME = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{4,}", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS key ids
    r"|\bhf_[A-Za-z0-9]{16,}|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\bsk-[A-Za-z0-9_-]{16,}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON web tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?:^[A-Za-z0-9+/=]+\r?\n)*^-----END [A-Z ]*PRIVATE KEY-----",  # the begin is cut off
    re.MULTILINE,
)
_PLAIN = ("null", "none", "true", "false", HIDDEN)
# Shorter values stand in any text by chance.
_SHORTEST = 4


def known_secrets(environment: Mapping[str, str], texts: Iterable[str] = ()) -> list[str]:
    """Secret values of an environment, and those inside URLs of it and of `texts`, longest first, in the ways URLs spell them."""
    found: set[str] = {value for name, value in environment.items() if SECRET_NAME.search(name)}
    for text in (*environment.values(), *texts):
        for info in _USERINFO.findall(text):
            user, colon, password = info.partition(":")
            found |= {info, password if colon else user}
        found |= {match["value"].strip("\"'") for match in _ASSIGNED.finditer(text)}
    spelled = {way for value in found for way in (value, unquote(value), quote(value, safe=""), quote_plus(value))}
    return sorted((value for value in spelled if len(value) >= _SHORTEST and value.lower() not in _PLAIN), key=lambda v: (-len(v), v))


def redact(text: str, known: Iterable[str] = ()) -> str:
    """The text with secrets replaced by `***`; JSON stays JSON."""
    for value in known:
        text = text.replace(value, HIDDEN)
    text = _SHAPES.sub(HIDDEN, text)
    text = _USERINFO.sub(HIDDEN, text)
    text = _SCHEME.sub(rf"\1 {HIDDEN}", text)
    text = _ASSIGNED.sub(_hide, text)
    return _ARGUMENT.sub(_hide, text)


def _hide(match: re.Match[str]) -> str:
    value = match["value"]
    if value.lower() in _PLAIN:
        return match[0]
    mark = value[0] if value[0] in "\"'" else ""
    return f"{match['name']}{mark}{HIDDEN}{mark}"


# Variables whose values explain how a run behaves; of all others only the name is told.
SHOWN = re.compile(
    r"(MVFORGE|MLFLOW|RAY|CUDA|NVIDIA|NCCL|OMP|MKL|OPENBLAS|TORCH|PYTORCH|DS|HF|TRANSFORMERS|DIFFUSERS|SLURM|KUBERNETES|AWS|S3|GOOGLE|FSSPEC)_\w*"
    r"|PATH|PYTHON\w*|LANG|LC_\w+|TZ|HOME|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|DISPLAY|SHELL|TERM|\w+_(?:proxy|PROXY)"
)


def shown_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variable -> value, `***` for secrets, `(set)` for variables that say nothing about a run."""
    values = os.environ if environment is None else environment
    known = known_secrets(values)
    shown = {}
    for name, value in sorted(values.items()):
        if SECRET_NAME.search(name):
            shown[name] = HIDDEN
        else:
            shown[name] = redact(value, known) if SHOWN.fullmatch(name) else "(set)"
    return shown
