"""Passwords and tokens are found in texts however they are spelt; references and other texts stay as they are."""

import logging

import pytest

from refold import secrets

PASSWORD = "Tr0ub4dor"
SPELLINGS = [
    f"postgresql://bob:{PASSWORD}@host/db",
    f"postgresql://bob:{PASSWORD[:4]}@{PASSWORD[4:]}@host/db",
    f"postgresql://host/db?user=bob&password={PASSWORD}",
    f"mssql://host/db?pwd={PASSWORD}&encrypt=true",
    f"redis://:{PASSWORD}@host",
    f"https://bars.example/all?token={PASSWORD}",
    f"https://bars.example/all?key={PASSWORD}",
    f"https://bars.example/all?api_key={PASSWORD}#top",
    f"https://{PASSWORD}@bars.example/all",
    f"postgresql://host/db?sslpassword={PASSWORD}",
    f"postgresql://bob:{PASSWORD}%40%2F@host/db",
    f"postgresql://bob:{PASSWORD[:4]}/{PASSWORD[4:]}@host/db",
    f"mysql://bob:{PASSWORD}'\"quotes@host/db",
    f"Driver=x;Server=y;UID=bob;PWD={{{PASSWORD};x}};Encrypt=yes",
    f"host=h user=bob password='{PASSWORD} x' dbname=d",
]
"""One password, as a database, a driver or a web service takes it."""


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize("around", ["{}", "data.uri={}", "data.uri is '{}'; it is odd", "['{}', 'sqlite:///x.db']"])
def test_a_password_is_masked_however_it_is_spelt(text, around):
    masked = secrets.mask(around.format(text))
    for part in (PASSWORD, PASSWORD[:4], PASSWORD[4:]):
        assert part not in masked
    assert secrets.MASK in masked
    assert secrets.mask(masked) == masked
    assert secrets.holds_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////data/me@here/bars.db", "postgresql://bob@host/db", "postgresql://bob:${oc.env:PASSWORD}@host/db",
        "${oc.env:DATABASE_URL}", "decoder.start_token=zeros", "https://bars.example/all?from=2020&to=2021",
        "select key, secretary from bars where pass > 3", "C:\\bars\\a.csv", "s3://bucket/bars.parquet", "a: b@c",
    ],
)  # fmt: skip
def test_other_texts_stay_as_they_are(text):
    assert secrets.mask(text) == text
    assert not secrets.holds_secret(text)


def test_settings_are_masked_by_what_they_hold_and_by_what_they_are_called():
    settings = {"data": {"uri": SPELLINGS[0], "db_password": "x1", "token": "${oc.env:T}"}, "list": [SPELLINGS[3], 3]}
    assert secrets.mask_settings(settings) == {
        "data": {"uri": "postgresql://bob:***@host/db", "db_password": "***", "token": "${oc.env:T}"},
        "list": ["mssql://host/db?pwd=***&encrypt=true", 3],
    }
    assert secrets.mask_settings({"start_token": "zeros"}) == {"start_token": "zeros"}


def test_a_secret_that_was_met_is_found_where_no_pattern_would(caplog):
    secrets.remember("postgresql://bob:unheard%2Fof@host")
    assert secrets.redact("the server says: unheard/of is wrong, so is unheard%2Fof") == (
        "the server says: *** is wrong, so is ***"
    )
    secrets.redact_logs()
    with caplog.at_level(logging.INFO):
        logging.getLogger("a.driver").info("tried %s", "unheard/of")
    assert caplog.messages == ["tried ***"]
