"""Protobuf's text format as nested fields, without a schema: what `.prototxt` files are written in."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from google.protobuf.text_format import ParseError, Tokenizer

from tools.base.errors import UserError

_PLACE = re.compile(r"\$\{(\w+)\}")
_BRACES = {"{": "}", "<": ">"}


class Word(str):
    """A value without quotes: an enum's name, true or false."""


class Message:
    """The fields of one message: name -> all of its values (str, Word, int, float or Message) in the file's order."""

    def __init__(self):
        self.fields: dict[str, list] = {}

    def all(self, name: str) -> list:
        """Every value of a field, none if it is absent."""
        return self.fields.get(name, [])

    def last(self, name: str, default=None):
        """The value of a field that is given once; the last one counts, as in protobuf."""
        return self.fields.get(name, [default])[-1]


def read(path: str | Path, values: Mapping[str, str | int] | None = None) -> Message:
    """The message in a text file. Raises UserError, with the line, where it is missing or is no such text.

    values: what takes the place of ${NAME}, which is how templates say what is to be filled in.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist, or is no file: name a prototxt.")
    content = Path(path).read_bytes()
    if b"\0" in content:
        raise UserError(f"{path} is no text: name a prototxt here, and the .caffemodel by --init or --weights.")
    text = content.decode("utf-8-sig", "replace")  # comments come in any encoding, and nothing else is not ASCII
    text = _PLACE.sub(lambda found: str((values or {}).get(found[1], found[0])), text)
    _check_places(path, text)
    try:
        return _message(Tokenizer(text.splitlines()), None)
    except ParseError as error:
        raise UserError(f"{path} cannot be read as a prototxt at line {error.GetLine()}: {_reason(error)}.") from None


def _check_places(path: str | Path, text: str) -> None:
    """Raise UserError where a ${NAME} is left in the place of a number. In names and file names it may stay."""
    for i, line in enumerate(text.splitlines(), 1):
        bare = re.sub(r"\"[^\"]*\"|'[^']*'", "", line).split("#")[0]
        if found := _PLACE.search(bare):
            raise UserError(
                f"{path} is a template whose line {i} leaves {found[0]} open: give it in NET_OPTIONS = {{'{found[1]}': ...}}."
            )


def _reason(error: ParseError) -> str:
    text = str(error)
    return text.split(" : ", 1)[-1].strip().rstrip(".")


def _message(tokens: Tokenizer, end: str | None) -> Message:
    message = Message()
    while not (tokens.AtEnd() if end is None else tokens.TryConsume(end)):
        if tokens.AtEnd():
            raise tokens.ParseError(f"the file ends before a '{end}'")
        values = message.fields.setdefault(tokens.ConsumeIdentifier(), [])
        colon = tokens.TryConsume(":")
        if tokens.TryConsume("["):
            values += _list(tokens)
        elif colon or tokens.token in _BRACES:
            values.append(_value(tokens))
        else:
            raise tokens.ParseError("a ':' or '{' is wanted here")
        _ = tokens.TryConsume(",") or tokens.TryConsume(";")
    return message


def _list(tokens: Tokenizer) -> Iterable:
    while not tokens.TryConsume("]"):
        yield _value(tokens)
        tokens.TryConsume(",")


def _value(tokens: Tokenizer):
    first = tokens.token[:1]
    if first in _BRACES:
        tokens.Consume(first)
        return _message(tokens, _BRACES[first])
    if first in ("'", '"'):
        return tokens.ConsumeString()
    if first.isalpha() or first == "_":
        return Word(tokens.ConsumeIdentifier())
    return _number(tokens)


def _number(tokens: Tokenizer) -> int | float:
    try:
        return tokens.ConsumeInteger()
    except ParseError:
        return tokens.ConsumeFloat()


Field = tuple[str, "str | int | float | list[Field]"]


def write(fields: Iterable[Field], indent: str = "") -> str:
    """The text of a message: (name, value) pairs, where a list is a message of its own."""
    return "".join(_line(name, value, indent) for name, value in fields)


def _line(name: str, value, indent: str) -> str:
    if isinstance(value, list):
        return f"{indent}{name} {{\n{write(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, bool):
        value = Word(str(value).lower())
    quoted = isinstance(value, str) and not isinstance(value, Word)
    return f"{indent}{name}: {json.dumps(value, ensure_ascii=False) if quoted else value}\n"
