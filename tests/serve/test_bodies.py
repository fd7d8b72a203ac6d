"""Bytes of a body: what is refused before the work is done, and what would be dropped in silence."""

from __future__ import annotations

import json
import time

import pytest

from mmada.errors import InputError
from mmada.serve.bodies import FormField, parsed_form, parsed_json
from mmada.serve.config import ServeConfig

CONFIG = ServeConfig()
URL_ENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"n": 1, "n": 2}', "n is given twice in one object; give it once"),
        (b'{"messages": [{"role": "user", "role": "user"}]}', "role is given twice"),
        (b'{"seed": ' + b"9" * 65 + b"}", "a number of 65 characters, 9999999999999999…; give it with 64 at most"),
        (b'{"temperature": 0.' + b"1" * 100 + b"}", "a number of 102 characters"),
        (b'{"temperature": -1' + b"0" * 100 + b"e-99}", "a number of 106 characters"),
    ],
)
def test_what_would_be_dropped_or_take_long_is_refused(body, message):
    with pytest.raises(InputError, match=message):
        parsed_json(body, CONFIG)


def test_ordinary_bodies_are_read():
    value = {"a": [1, -2.5e-300, 2**63, {"a": True}], "b": {"a": None}}
    assert parsed_json(json.dumps(value).encode(), CONFIG) == value
    assert parsed_json(json.dumps(value).encode("utf-16"), CONFIG) == value
    assert parsed_json(b"\xef\xbb\xbf{}", CONFIG) == {}


def test_many_names_cost_no_more_for_one_that_is_there_twice():
    body = b"{" + b",".join(b'"%d":0' % i for i in range(60_000)) + b',"59999":1}'
    begun = time.thread_time()
    with pytest.raises(InputError, match="59999 is given twice"):
        parsed_json(body, CONFIG)
    assert time.thread_time() - begun < 0.5


def test_a_form_of_escapes_is_not_decoded():
    """Each %41 became an object: 20 MB took 1.6 GB and seconds."""
    begun = time.thread_time()
    with pytest.raises(InputError, match="786432 are allowed without files"):
        parsed_form(b"prompt=" + b"%41" * 6_000_000, URL_ENCODED, CONFIG)
    assert time.thread_time() - begun < 0.1
    assert parsed_form(b"prompt=%41+b&n=1", URL_ENCODED, CONFIG) == [FormField("prompt", "A b"), FormField("n", "1")]


def test_the_headers_of_a_field_are_short():
    """A parser of others takes time with their square."""

    def form(head: bytes) -> bytes:
        return b"--x\r\n" + head + b"\r\n\r\nb\r\n--x--\r\n"

    named = b'Content-Disposition: form-data; name="a"; b="'
    assert parsed_form(form(named + b'"'), "multipart/form-data; boundary=x", CONFIG) == [FormField("a", "b")]
    with pytest.raises(InputError, match="empty line behind its headers"):
        parsed_form(form(named + b";" * 5000), "multipart/form-data; boundary=x", CONFIG)
    begun = time.thread_time()
    parsed_form(form(named + b";" * 4000), "multipart/form-data; boundary=x", CONFIG)
    assert time.thread_time() - begun < 0.05
