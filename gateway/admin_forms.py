"""Fields the operators' forms share: lists of names one a line, choices as check boxes, deadlines as numbers."""

from collections.abc import Iterable
from typing import Any

from django import forms

from gateway.providers.outbound import Deadlines

LONGEST_DEADLINE_S = 86_400.0
STAGES = ("connect", "first_byte", "first_token", "between_chunks", "total")


class LinesField(forms.CharField):
    """A list of texts, one a line; blank lines and repetitions are dropped, the order is kept."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("widget", forms.Textarea(attrs={"rows": 4, "cols": 48, "spellcheck": "false"}))
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list | tuple) else value

    def to_python(self, value: Any) -> Any:
        lines = (line.strip() for line in (super().to_python(value) or "").splitlines())
        return list(dict.fromkeys(line for line in lines if line))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return list(initial or []) != self.to_python(data)


class CheckBoxesField(forms.MultipleChoiceField):
    """A list of known words, each a check box."""

    def __init__(self, words: Iterable[str], **kwargs: Any) -> None:
        choices = [(word, word.replace("_", " ")) for word in words]
        super().__init__(choices=choices, widget=forms.CheckboxSelectMultiple, **kwargs)


def _deadline(label: str, default: float) -> forms.FloatField:
    return forms.FloatField(
        label=label,
        required=False,
        min_value=0.001,
        max_value=LONGEST_DEADLINE_S,
        widget=forms.NumberInput(attrs={"placeholder": f"{default:g}", "step": "any", "class": "vSmallNumber"}),
    )


class OwnedForm(forms.ModelForm):  # type: ignore[type-arg]
    """Of a row whose owner is fixed once it is there: names must stay unique within that owner, although the form
    does not ask for it any more."""

    def _get_validation_exclusions(self) -> set[str]:
        excluded = super()._get_validation_exclusions()
        return excluded if self.instance._state.adding else excluded - {"tenant"}


class DeadlinesForm(OwnedForm):
    """The ``deadlines`` of a row as one number of seconds for each stage; an empty one leaves the default."""

    connect = _deadline("Connect", Deadlines().connect)
    first_byte = _deadline("First byte", Deadlines().first_byte)
    first_token = _deadline("First token", Deadlines().first_token)
    between_chunks = _deadline("Between chunks", Deadlines().between_chunks)
    total = _deadline("Whole call", Deadlines().total)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for stage in STAGES:
            self.initial.setdefault(stage, self.instance.deadlines.get(stage))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        self.instance.deadlines = {stage: cleaned[stage] for stage in STAGES if cleaned.get(stage) is not None}
        return cleaned
