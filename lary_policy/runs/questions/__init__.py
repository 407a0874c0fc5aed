"""What heads, or latents alone, can be asked: each question is one file here that registers itself."""

from __future__ import annotations

from lary_policy.runs.questions.registry import (
    NO_HEAD,
    WINDOWS,
    Probe,
    ProbeConfig,
    Question,
    find_question,
    list_questions,
    register_question,
)

__all__ = [
    "NO_HEAD",
    "WINDOWS",
    "Probe",
    "ProbeConfig",
    "Question",
    "find_question",
    "list_questions",
    "register_question",
]
