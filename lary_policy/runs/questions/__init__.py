"""What heads, or latents alone, can be asked: each question is one file here that registers itself."""

from __future__ import annotations

from lary_policy.runs.questions.registry import Question, find_question, list_questions, register_question

__all__ = ["Question", "find_question", "list_questions", "register_question"]
