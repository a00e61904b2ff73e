"""Twins: one message that is told twice under two ids, by a hook while it is written and by the transcript afterwards.

Rule 1: a hook's id is none of the transcript's. A prompt is the same where both say the same words for the same
        ``promptId``; an answer where the words are the same since the last prompt, or begin the same while it streams.
Rule 2: who comes second writes its id as ``also`` into the message that is there. So every reader of the log knows of
        both, and nothing is written twice, whoever comes first and however often.
Rule 3: a message has one twin. The same words said again are another message.
"""

from __future__ import annotations

import hashlib
from typing import Any

HOOK = "hook"
_RECENT = 30  # texts of a transcript that a hook may still tell of
_CLIPPED = 4000  # characters of such a text


class Twins:
    """The messages of a log that may be told a second time. ``find`` is asked before a new one is written."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}  # a twin's id → the message's
        self._prompts: dict[tuple[bool, str, bytes], str] = {}  # by a hook?, promptId, words → message
        self._asked: dict[str, tuple[bool, str, bytes]] = {}  # the other way round
        self._digests: dict[str, bytes] = {}  # message of a hook that is whole → its words
        self._streaming: dict[str, str] = {}  # message of a hook → its words so far
        self._shown: dict[bytes, list[str]] = {}  # words that a hook has told whole → messages without a twin
        self._words: set[bytes] = set()  # all answers since the last prompt, whoever has told of them
        self._whole: dict[str, str] = {}  # message that a hook has told at once, since the last prompt → its words
        self._told: dict[str, str] = {}  # message of a transcript → its words, since the last prompt
        self.reached: dict[str, int] = {}  # message of a hook that streams → the number of its last piece

    def id_of(self, key: str) -> str:
        """The message that ``key`` is the id of, or of its twin."""
        return self._ids.get(key, key)

    def find(self, key: str, fields: dict[str, Any]) -> str | None:
        """The message that a new one with these fields is the twin of."""
        hooked, content = fields.get("told_by") == HOOK, fields.get("content")
        if not isinstance(content, str) or not content.strip():
            return None
        if fields.get("role") == "user":
            prompt = _prompt_id(fields)
            return None if prompt is None else self._prompts.get((not hooked, prompt, _digest(content)))
        if fields.get("role") != "assistant" or fields.get("kind") is not None:
            return None
        if hooked:
            return self.ends_with(content) or self.begins_with(content)
        same = self._shown.get(_digest(content))
        if same:
            return same[0]
        words = content.strip()
        return next(
            (one for one, text in self._streaming.items() if text.strip() and words.startswith(text.strip())), None
        )

    def begins_with(self, text: str) -> str | None:
        """The answer in the transcript that begins with these words, and that no hook has told of."""
        words = text.strip()[:_CLIPPED]
        return next((key for key, told in self._told.items() if words and told.startswith(words)), None)

    def repeats(self, key: str, text: str) -> bool:
        """Whether these words begin an answer that another hook has told whole. Then ``key`` is that one's id, too."""
        words = text.strip()
        same = next((one for one, whole in self._whole.items() if words and whole.startswith(words)), None)
        if same is not None:
            self._ids[key] = same
        return same is not None

    def ends_with(self, text: str) -> str | None:
        """The answer that a hook has told, or is telling, of which these are the whole words."""
        same = self._shown.get(_digest(text))
        words = text.strip()
        streaming = (one for one, told in self._streaming.items() if told.strip() and words.startswith(told.strip()))
        return same[-1] if same else next(streaming, None)

    def has(self, text: str) -> bool:
        """Whether these words were an answer since the last prompt."""
        return _digest(text) in self._words

    def goes_on(self, key: str, content: str) -> bool:
        """Whether ``content`` begins with what was told of a message that streams."""
        return content.startswith(self._streaming.get(key, ""))

    # --- what the log holds ---

    def added(self, message: dict[str, Any]) -> None:
        """Take a message of the log."""
        key, content = message["message_id"], message.get("content")
        hooked = message.get("told_by") == HOOK
        if message.get("role") == "user" and isinstance(content, str):
            self._told.clear()
            self._whole.clear()
            self._words.clear()
            prompt = _prompt_id(message)
            if prompt is not None:
                which = (hooked, prompt, _digest(content))
                if which not in self._prompts:
                    self._prompts[which], self._asked[key] = key, which
        elif message.get("role") == "assistant" and isinstance(content, str) and message.get("kind") is None:
            if message.get("status", "complete") == "complete":
                self._words.add(_digest(content))
            if hooked and message.get("status", "complete") == "complete":
                self._note(key, content)
                if "shown" not in message:
                    self._whole[key] = content.strip()
            elif hooked:
                self._streaming[key] = content
            elif content.strip() and message.get("status", "complete") == "complete":
                self._told[key] = content.strip()[:_CLIPPED]
                if len(self._told) > _RECENT:
                    del self._told[next(iter(self._told))]
        if isinstance(message.get("shown"), int):
            self.reached[key] = message["shown"]
        self._twin(key, message.get("also"))

    def updated(self, event: dict[str, Any]) -> None:
        """Take an update of a message of the log."""
        key, patch = event["message_id"], event.get("patch") or {}
        if isinstance(event.get("shown"), int):
            self.reached[key] = event["shown"]
        if key in self._streaming:
            content = patch.get("content")
            text = self._streaming[key] = (
                content if isinstance(content, str) else self._streaming[key] + event.get("append", "")
            )
            if patch.get("status") == "complete":
                del self._streaming[key]
                self._words.add(_digest(text))
                self._note(key, text)
        self._twin(key, patch.get("also"))

    def _note(self, key: str, text: str) -> None:
        digest = self._digests[key] = _digest(text)
        self._shown.setdefault(digest, []).append(key)

    def _twin(self, key: str, other: Any) -> None:
        if not isinstance(other, str):
            return
        self._ids[other] = key
        self._told.pop(key, None)
        self._streaming.pop(key, None)
        self._whole.pop(key, None)
        digest, prompt = self._digests.pop(key, b""), self._asked.pop(key, None)
        if key in self._shown.get(digest, ()):
            self._shown[digest].remove(key)
        if prompt is not None:
            del self._prompts[prompt]


def _prompt_id(message: dict[str, Any]) -> str | None:
    source = message.get("source")
    prompt = source.get("promptId") if isinstance(source, dict) else None
    return prompt if isinstance(prompt, str) else None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=12).digest()
