"""Rows of instruction data to samples: Alpaca, Dolly, ShareGPT, OpenAI messages, prompt/completion,
question/answer and preference pairs, told apart by their columns.

Every column of a row is used, makes the row refused, or is reported as not used.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from onecard.tasks.finetune.sample import Message, Sample

ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
PROMPT_COLUMNS = ("prompt", "question", "instruction", "query", "Question")
CONTEXT_COLUMNS = ("input", "context")
"""Text that continues the prompt: Alpaca's input, Dolly's context."""
ANSWER_COLUMNS = ("completion", "answer", "output", "response", "chosen", "Answer")
GROUP_COLUMNS = ("group", "document", "doc_id", "document_id", "source_file")
CONVERSATION_COLUMNS = ("messages", "conversations", "conversation")
MEDIA_COLUMNS = ("image", "images", "audio", "audios", "video", "videos")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
"""Where a turn of Anthropic's hh-rlhf begins."""


class Fields:
    """A row that notes which of its columns were read. A missing value, None and NaN are one."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.row = row
        self.read: set[str] = set()

    def get(self, *names: str) -> Any:
        """The first value that is there, or None."""
        for name in names:
            value = self.row.get(name)
            if not is_missing(value):
                self.read.add(name)
                return value
        return None

    def unused(self) -> list[str]:
        """Columns with a value that nobody read."""
        return [
            str(name)
            for name, value in self.row.items()
            if name not in self.read and not is_missing(value) and value not in ("", [], {})
        ]


def is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


class RowParser:
    """Samples of rows; `names`: part -> the user's own column name."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def parse(self, row: Any, source: str) -> tuple[list[Sample], list[str]]:
        """(samples, columns that are not used). Raises ValueError with the reason."""
        if not isinstance(row, dict):
            raise ValueError(f"no JSON object but {str(row)[:60]!r}")
        fields = Fields(row)
        if fields.get(*MEDIA_COLUMNS):
            raise ValueError("it has a picture, a sound or a video, and only text is trained here")
        if isinstance(row.get("label"), bool) and fields.get("label") is False:
            raise ValueError("its answer is marked as a bad one (label false)")
        group = str(self._part(fields, "group", GROUP_COLUMNS) or "")
        unused: list[str] = []
        if self._part(fields, "rejected", ("rejected",)) is not None:
            samples = [self._preference(fields, source, group, unused)]
        elif conversation := fields.get(*CONVERSATION_COLUMNS):
            samples = [self._conversation(fields, conversation, source, group, unused)]
        elif isinstance(row.get("instances"), list) and isinstance(row.get("instruction"), str):
            if not all(isinstance(instance, dict) for instance in row["instances"]):
                raise ValueError("instances must be a list of objects with input and output")
            instruction = fields.get("instruction")
            samples = [
                Sample(
                    _pair(instruction, instance.get("input"), instance.get("output")),
                    source,
                    group or source,
                )
                for instance in fields.get("instances")
            ]
        else:
            samples = [self._pair_of_columns(fields, source, group, unused)]
        for sample in samples:
            require_whole_text(sample)
        return samples, [*fields.unused(), *unused]

    def _part(self, fields: Fields, part: str, usual: Sequence[str]) -> Any:
        return fields.get(*((self.names[part],) if part in self.names else usual))

    # forms

    def _conversation(
        self, fields: Fields, turns: Any, source: str, group: str, unused: list[str]
    ) -> Sample:
        messages, untrained = conversation(turns, unused)
        if messages[0]["role"] != "system" and (system := self._system(fields)):
            messages = ({"role": "system", "content": system}, *messages)
            untrained = tuple(i + 1 for i in untrained)
        if all(i in untrained for i, m in enumerate(messages) if m["role"] == "assistant"):
            raise ValueError("none of its answers may be trained (weight 0 or train false)")
        return Sample(messages, source, group, "", untrained, _tools(fields))

    def _pair_of_columns(
        self, fields: Fields, source: str, group: str, unused: list[str]
    ) -> Sample:
        prompt = self._part(fields, "prompt", PROMPT_COLUMNS)
        answer = self._part(fields, "completion", ANSWER_COLUMNS)
        if answer is None:
            answer = _first_answer(fields.get("answers"))
        if isinstance(prompt, list):
            end: tuple[Message, ...]
            if isinstance(answer, list):
                end, _ = conversation(answer, unused)
            else:
                end = ({"role": "assistant", "content": text_of(answer)},)
            start, untrained = conversation(prompt, unused, whole=False)
            return Sample((*start, *end), source, group, "", untrained, _tools(fields))
        context = fields.get(*CONTEXT_COLUMNS)
        if prompt is None and isinstance(context, str):
            prompt, context = context, None
        if prompt is None or answer is None:
            missing = "prompt" if prompt is None else "answer"
            columns = ", ".join(map(str, fields.row))[:120]
            raise ValueError(f"no {missing} in its columns ({columns})")
        messages = _history(fields.get("history"))
        if system := self._system(fields):
            messages = ({"role": "system", "content": system}, *messages)
        return Sample(
            (*messages, *_pair(prompt, context, answer)), source, group, "", (), _tools(fields)
        )

    def _preference(self, fields: Fields, source: str, group: str, unused: list[str]) -> Sample:
        """Chosen and rejected: texts, messages, or conversations with a common beginning."""
        rejected = self._part(fields, "rejected", ("rejected",))
        chosen = self._part(fields, "completion", ("chosen", *ANSWER_COLUMNS))
        prompt = self._part(fields, "prompt", PROMPT_COLUMNS)
        if chosen is None:
            raise ValueError("it has a rejected answer and no chosen one")
        before: tuple[Message, ...] = ()
        if isinstance(prompt, list):
            before, _ = conversation(prompt, unused, whole=False)
        elif prompt is not None:
            before = _pair(prompt, fields.get(*CONTEXT_COLUMNS), "")[:-1]
        elif isinstance(turns := fields.get(*CONVERSATION_COLUMNS), list):
            before, _ = conversation(turns, unused, whole=False)
        better, worse = (_answer_turns(value, unused) for value in (chosen, rejected))
        if len(better) > 1:  # a whole conversation; the prompt repeats its beginning
            fields.read.update(name for name in CONVERSATION_COLUMNS if name in fields.row)
            before, better = better[:-1], better[-1:]
        if not any(m["role"] == "user" for m in before):
            raise ValueError("no prompt before its answers")
        if before[0]["role"] != "system" and (system := self._system(fields)):
            before = ({"role": "system", "content": system}, *before)
        worse_answer = str(worse[-1]["content"])
        if worse_answer.split() == str(better[-1]["content"]).split():
            raise ValueError("chosen and rejected are the same")
        return Sample((*before, *better), source, group, worse_answer, (), _tools(fields))

    def _system(self, fields: Fields) -> str:
        system = self._part(fields, "system", ("system",))
        return system.strip() if isinstance(system, str) else ""


# Messages


def conversation(
    turns: Any, unused: list[str], whole: bool = True
) -> tuple[tuple[Message, ...], tuple[int, ...]]:
    """(messages, positions of answers that are not trained) of OpenAI's or ShareGPT's form;
    `whole`: they must end with an answer.

    Raises ValueError for what is no message, for an unknown role, or without an answer at the end.
    """
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = json.loads(turns)
    if isinstance(turns, dict):
        turns = [turns]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"a list of messages is needed, not {str(turns)[:60]!r}")
    messages: list[Message] = []
    untrained: list[int] = []
    for turn in turns:
        message, trained = _message(turn, unused)
        if message["role"] == "assistant" and not trained:
            untrained.append(len(messages))
        messages.append(message)
    if whole and messages[-1]["role"] != "assistant":
        if len(messages) < 2 or messages[-2]["role"] != "assistant":
            raise ValueError("the conversation does not end with an answer")
        messages.pop()
        unused.append("the turn after the last answer")
    return tuple(messages), tuple(untrained)


def _message(turn: Any, unused: list[str]) -> tuple[Message, bool]:
    """(message, whether its answer is trained)."""
    if not isinstance(turn, dict):
        raise ValueError(f"a message is {str(turn)[:60]!r}")
    fields = Fields(turn)
    role = fields.get("role", "from")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise ValueError(f"the role {role!r} is not known; roles: {', '.join(ROLES)}")
    content, calls = fields.get("content", "value"), fields.get("tool_calls")
    message: Message = {"role": ROLES[role.lower()]}
    if role == "function_call":
        calls, content = [_function_call(content)], ""
    if calls:
        message["tool_calls"] = calls
    for name in ("name", "tool_call_id"):
        if (value := fields.get(name)) is not None:
            message[name] = value
    if reasoning := fields.get(*REASONING_KEYS):
        message["reasoning_content"] = text_of(reasoning)
    message["content"] = "" if content is None and calls else _content(content)
    weight, train = fields.get("weight"), fields.get("train", "loss")
    unused += [f"messages.{name}" for name in fields.unused()]
    is_empty = not message["content"] and not calls  # context at best: nothing to learn
    return message, weight != 0 and train is not False and not is_empty


def _content(content: Any) -> str:
    """A text, or OpenAI's content parts."""
    if not isinstance(content, list):
        return text_of(content).strip()
    texts = []
    for part in content:
        if isinstance(part, dict) and not isinstance(part.get("text"), str):
            kind = str(part.get("type", "part without text"))
            raise ValueError(f"a message holds a part of the type {kind}, and only text is trained")
        texts.append(part if isinstance(part, str) else text_of(part["text"]))
    return "".join(texts).strip()


def _function_call(content: Any) -> dict[str, Any]:
    """ShareGPT's call, a JSON text, as OpenAI's tool call."""
    call = json.loads(content) if isinstance(content, str) else content
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ValueError(f"a function call has no name: {str(content)[:60]!r}")
    return {
        "type": "function",
        "function": {"name": call["name"], "arguments": call.get("arguments", {})},
    }


def _answer_turns(value: Any, unused: list[str]) -> tuple[Message, ...]:
    """A chosen or rejected answer as messages; hh-rlhf writes a conversation into one text."""
    if isinstance(value, list | dict):
        return conversation(value, unused)[0]
    text = text_of(value)
    turns = HH_TURN.split(text)
    if len(turns) > 3 and not turns[0].strip():
        roles = {"Human": "user", "Assistant": "assistant"}
        pairs = zip(turns[1::2], turns[2::2], strict=True)
        return conversation([{"role": roles[who], "content": said} for who, said in pairs], unused)[
            0
        ]
    return ({"role": "assistant", "content": text.strip()},)


def _first_answer(answers: Any) -> Any:
    """Of SQuAD's {"text": [answers], ...}, or of a list of them."""
    if isinstance(answers, dict):
        answers = answers.get("text")
    return answers[0] if isinstance(answers, list) and answers else answers


def _history(turns: Any) -> tuple[Message, ...]:
    """LLaMA-Factory's and ms-swift's earlier turns: [[question, answer], ...]."""
    if not turns:
        return ()
    if not isinstance(turns, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in turns
    ):
        raise ValueError("history must be a list of [question, answer]")
    return tuple(message for question, answer in turns for message in _pair(question, None, answer))


def _pair(prompt: Any, context: Any, answer: Any) -> tuple[Message, ...]:
    question = text_of(prompt).strip()
    if context is not None and (more := text_of(context).strip()):
        question = f"{question}\n\n{more}".strip()
    return (
        {"role": "user", "content": question},
        {"role": "assistant", "content": text_of(answer).strip()},
    )


def _tools(fields: Fields) -> str:
    """The row's tools as a JSON list."""
    tools = fields.get("tools", "functions")
    if isinstance(tools, str):
        tools = json.loads(tools) if tools.strip() else None
    if not tools:
        return ""
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(f"tools must be a list of objects, not {str(tools)[:60]!r}")
    return json.dumps(tools, ensure_ascii=False)


def text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and not is_missing(value):
        return str(value)
    raise ValueError(f"a text is needed, not {str(value)[:60]!r}")


def require_whole_text(sample: Sample) -> None:
    """Raises ValueError for half a character (a lone surrogate), which no file and no tokenizer
    takes."""
    texts = json.dumps(
        [list(sample.messages), sample.rejected, sample.tools, sample.group], ensure_ascii=False
    )
    try:
        texts.encode()
    except UnicodeEncodeError as fault:
        raise ValueError(
            f"half of a character (a lone surrogate, \\u{ord(texts[fault.start]):04x})"
        ) from None
