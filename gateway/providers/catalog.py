"""The vendors the gateway knows: one frozen row each.

A vendor that speaks a known format is a row here, never a class. What a row says is a default: a provider's
own base URL and a model's own profile win over it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from gateway.wire.types import VendorProfile

Format = Literal["openai_chat", "openai_responses", "anthropic_messages", "gemini", "ollama"]


@dataclass(frozen=True, slots=True)
class Auth:
    """The header that carries the key; ``scheme`` is the word before it (``Bearer``), empty for none."""

    header: str
    scheme: str = ""

    def render(self, secret: str) -> dict[str, str]:
        return {self.header: f"{self.scheme} {secret}" if self.scheme else secret}


@dataclass(frozen=True, slots=True)
class ModelList:
    """Where a vendor lists its models and how to read the answer.

    ``path`` follows the base URL, or its origin when ``at_origin``. ``items`` is the field that holds the
    list (None: the body is the list), ``id`` and ``context_window`` are fields of an entry, ``id_prefix`` is
    cut from the identifier.
    """

    path: str = "/models"
    at_origin: bool = False
    items: str | None = "data"
    id: str = "id"
    id_prefix: str = ""
    context_window: str | None = None
    max_output_tokens: str | None = None


@dataclass(frozen=True, slots=True)
class Vendor:
    """One kind of provider.

    ``base_url`` None means that the provider must name its own. ``format`` is a module of
    :mod:`gateway.wire`. ``key_env`` is the environment variable the vendor's own tools read the key from.
    ``also`` are formats it speaks beside that one: a caller of such a dialect is passed through.
    ``chat_path`` replaces the format's path (``{model}`` is the vendor's model name, escaped); ``query`` is
    appended to every URL unless the base URL brings a query of its own. ``models`` None: not listed.
    """

    kind: str
    label: str
    base_url: str | None
    format: Format = "openai_chat"
    also: tuple[Format, ...] = ()
    auth: Auth | None = Auth("Authorization", "Bearer")
    key_env: str | None = None
    key_required: bool = True
    profile: VendorProfile = field(default=VendorProfile())
    models: ModelList | None = ModelList()
    headers: Mapping[str, str] = field(default_factory=dict)
    chat_path: str | None = None
    query: str = ""


_ROWS = (
    Vendor(
        kind="openai",
        label="OpenAI",
        base_url="https://api.openai.com/v1",
        also=("openai_responses",),
        key_env="OPENAI_API_KEY",
        # Reasoning models refuse max_tokens; the newer name works for all of them.
        profile=VendorProfile(max_tokens_field="max_completion_tokens"),
    ),
    Vendor(
        kind="openai-responses",
        label="OpenAI Responses",
        base_url="https://api.openai.com/v1",
        format="openai_responses",
        key_env="OPENAI_API_KEY",
    ),
    Vendor(
        kind="anthropic",
        label="Anthropic",
        base_url="https://api.anthropic.com",
        format="anthropic_messages",
        auth=Auth("x-api-key"),
        key_env="ANTHROPIC_API_KEY",
        models=ModelList("/v1/models?limit=1000", context_window="max_input_tokens", max_output_tokens="max_tokens"),
        headers={"anthropic-version": "2023-06-01"},
    ),
    Vendor(
        kind="gemini",
        label="Google Gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta",
        format="gemini",
        auth=Auth("x-goog-api-key"),
        key_env="GEMINI_API_KEY",
        models=ModelList(
            "/models?pageSize=1000",
            items="models",
            id="name",
            id_prefix="models/",
            context_window="inputTokenLimit",
            max_output_tokens="outputTokenLimit",
        ),
    ),
    Vendor(
        kind="mistral",
        label="Mistral",
        base_url="https://api.mistral.ai/v1",
        key_env="MISTRAL_API_KEY",
        # A field it does not know is a 422; usage comes on the last chunk unasked.
        profile=VendorProfile(
            max_tokens_field="max_tokens",
            stream_usage=False,
            unsupported=frozenset(
                {
                    "seed",
                    "user",
                    "store",
                    "logit_bias",
                    "logprobs",
                    "top_logprobs",
                    "service_tier",
                    "safety_identifier",
                    "prompt_cache_key",
                    "verbosity",
                }
            ),
        ),
        models=ModelList(context_window="max_context_length"),
    ),
    Vendor(
        kind="groq",
        label="Groq",
        base_url="https://api.groq.com/openai/v1",
        key_env="GROQ_API_KEY",
        profile=VendorProfile(unsupported=frozenset({"logprobs", "logit_bias", "top_logprobs"})),  # a 400
        models=ModelList(context_window="context_window", max_output_tokens="max_completion_tokens"),
    ),
    Vendor(
        kind="together",
        label="Together AI",
        base_url="https://api.together.xyz/v1",
        key_env="TOGETHER_API_KEY",
        profile=VendorProfile(max_tokens_field="max_tokens"),
        models=ModelList(items=None, context_window="context_length"),
    ),
    Vendor(
        kind="fireworks",
        label="Fireworks AI",
        base_url="https://api.fireworks.ai/inference/v1",
        key_env="FIREWORKS_API_KEY",
        profile=VendorProfile(max_tokens_field="max_tokens"),
        models=ModelList(context_window="context_length"),
    ),
    Vendor(
        kind="deepseek",
        label="DeepSeek",
        base_url="https://api.deepseek.com",
        key_env="DEEPSEEK_API_KEY",
        profile=VendorProfile(max_tokens_field="max_tokens", json_schema=False),
    ),
    Vendor(
        kind="xai",
        label="xAI",
        base_url="https://api.x.ai/v1",
        key_env="XAI_API_KEY",
        profile=VendorProfile(usage_inclusive_reasoning=False),  # reasoning comes on top of completion_tokens
    ),
    Vendor(
        kind="zai",
        label="Z.ai",
        base_url="https://api.z.ai/api/paas/v4",
        key_env="ZAI_API_KEY",
        profile=VendorProfile(max_tokens_field="max_tokens", json_schema=False),
    ),
    Vendor(
        kind="openrouter",
        label="OpenRouter",
        base_url="https://openrouter.ai/api/v1",
        key_env="OPENROUTER_API_KEY",
        models=ModelList(context_window="context_length"),
    ),
    Vendor(
        kind="cohere",
        label="Cohere",
        base_url="https://api.cohere.ai/compatibility/v1",
        key_env="COHERE_API_KEY",
        profile=VendorProfile(
            max_tokens_field="max_tokens",
            unsupported=frozenset(
                {
                    "store",
                    "metadata",
                    "logit_bias",
                    "top_logprobs",
                    "n",
                    "modalities",
                    "prediction",
                    "audio",
                    "service_tier",
                    "parallel_tool_calls",
                }
            ),
        ),
        models=ModelList(
            "/v1/models?endpoint=chat&page_size=1000",
            at_origin=True,  # the compatibility API lists none
            items="models",
            id="name",
            context_window="context_length",
        ),
    ),
    Vendor(
        kind="perplexity",
        label="Perplexity",
        base_url="https://api.perplexity.ai",
        key_env="PERPLEXITY_API_KEY",
        profile=VendorProfile(max_tokens_field="max_tokens", stream_usage=False),  # usage comes on every chunk unasked
        models=None,
    ),
    Vendor(
        kind="azure-openai",
        label="Azure OpenAI",
        # https://RESOURCE.openai.azure.com, with ?api-version=... for another version. Azure's newer /openai/v1
        # address needs none of this: it is a plain openai-compatible one.
        base_url=None,
        auth=Auth("api-key"),
        key_env="AZURE_OPENAI_API_KEY",
        models=ModelList("/openai/models"),
        chat_path="/openai/deployments/{model}/chat/completions",
        query="api-version=2024-10-21",
    ),
    Vendor(
        kind="ollama",
        label="Ollama",
        base_url="http://127.0.0.1:11434",
        format="ollama",
        key_env="OLLAMA_API_KEY",
        key_required=False,
        models=ModelList("/api/tags", items="models", id="name"),
    ),
    Vendor(
        kind="vllm",
        label="vLLM",
        base_url=None,
        key_env="VLLM_API_KEY",
        key_required=False,
        models=ModelList(context_window="max_model_len"),
    ),
    Vendor(kind="openai-compatible", label="OpenAI-compatible", base_url=None, key_required=False),
    Vendor(
        kind="demo",
        label="Built-in demo",
        base_url="https://demo.invalid/v1",  # answered in-process, never resolved
        auth=None,
        key_required=False,
    ),
)

VENDORS: Mapping[str, Vendor] = MappingProxyType({row.kind: row for row in _ROWS})
KINDS: tuple[str, ...] = tuple(VENDORS)


def get(kind: str) -> Vendor:
    """The row of ``kind``. Raises KeyError, naming the kinds there are."""
    try:
        return VENDORS[kind]
    except KeyError:
        raise KeyError(f"There is no provider kind {kind!r}; the kinds are {', '.join(KINDS)}.") from None
