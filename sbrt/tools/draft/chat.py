"""Renders prompts with the target's chat template, and finds the text before a user's first
words."""

from __future__ import annotations

from pathlib import Path

from ...errors import InvalidInputError
from ...model.gguf import is_gguf

MARK = "\ue000a user speaks\ue001"


class Chat:
    """The chat template of a target. If the target has none, `has_template` is False and prompts
    are used raw.

    Raises InvalidInputError if jinja2 is missing.
    """

    def __init__(self, target: Path) -> None:
        try:
            from ...server import templates
        except ImportError as error:
            raise InvalidInputError(
                "draft: expected the extra draft (pip install 'sbrt[draft]'), "
                f"found no {error.name}"
            ) from None
        tokenizer = target if is_gguf(target) else target / "tokenizer.json"
        self._template = templates.read_template(tokenizer)
        self.has_template = self._template.text is not None

    def ask(self, text: str) -> str:
        """Return the text of a conversation in which the user says `text`. The text ends where the
        answer begins."""
        if not self.has_template:
            return text
        from ...server import templates

        message = {"role": "user", "content": text}
        return self._template.render(templates.Conversation([message]))

    @property
    def opening(self) -> str:
        """The text before a user's first words. Raises InvalidInputError without a template."""
        if not self.has_template:
            raise InvalidInputError(
                "--prompts: expected a file, as the target has no chat template to invent prompts "
                "from, got none"
            )
        return self.ask(MARK).partition(MARK)[0]
