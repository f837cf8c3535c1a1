"""Texts from files in messages: nothing in them reaches the terminal as anything but text."""

import json

from hypothesis import given
from hypothesis import strategies as st

from vit_spec.names import plain, printable, unknown_name

ATTACKS = {
    "colours": ("\x1b[31mred", r"\x1b[31mred"),
    "a line break": ("head\nPASS", r"head\nPASS"),
    "right to left": ("a\u202etxt", r"a\u202etxt"),
    "invisible": ("he\u200bad", r"he\u200bad"),
    "half of a pair": ("\udc80", r"\udc80"),
    "a bell": ("\x07", r"\x07"),
    "accents and other scripts stay": ("tête 頭", "tête 頭"),
}


def test_what_is_not_printable_is_escaped_as_in_python():
    assert {n: printable(text) for n, (text, _) in ATTACKS.items()} == {
        n: right for n, (_, right) in ATTACKS.items()
    }


@given(st.text(st.characters()))
def test_any_text_becomes_printable_and_can_be_written(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert printable(text, lines=True).replace("\n", "").isprintable()
    assert json.loads(json.dumps(printable(text).encode().decode())) == printable(text)
    assert plain(text).isprintable() and len(plain(text)) <= 200


def test_lines_of_a_message_stay_lines():
    assert printable("a\n  b\x1b[1m", lines=True) == "a\n  b\\x1b[1m"


def test_near_names_that_are_shown_are_printable_too():
    assert unknown_name("tensor", "head.bias", ["head.bia\n\x1b[2Js"]) == (
        r"unknown tensor 'head.bias': did you mean head.bia\n\x1b[2Js?"
    )
