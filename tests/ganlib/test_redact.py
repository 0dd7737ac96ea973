"""No password is shown."""

import pytest

from ganlib.redact import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ada:pass@host:5000/x", "https://***@host:5000/x"),
        ("postgresql+psycopg://ada:p%40ss@host/db?sslmode=require", "postgresql+psycopg://***@host/db?sslmode=require"),
        ("https://ada:p@ss@host/x", "https://***@host/x"),  # kills: the first @ ends the user
        ("https://ada:p/a?s#s@host/x", "https://***@host/x"),  # kills: an unquoted / ends the password
        ("https://token@host", "https://***@host"),
        ("s3://bucket/x?access_key=AKIA1&secret_key=abcd&region=r", "s3://bucket/x?access_key=***&secret_key=***&region=r"),
        ("https://host/a?X-Amz-Signature=ff&X-Amz-Security-Token=t1", "https://host/a?X-Amz-Signature=***&X-Amz-Security-Token=***"),
        ("postgresql://host/db?user=ada&password=pass", "postgresql://host/db?user=ada&password=***"),
        ("no Ray at 'http://a:b@h:1' and http://c:d@i:2.", "no Ray at 'http://***@h:1' and http://***@i:2."),
        # nothing to hide: as it is
        ("http://host:5000/x@y", "http://host:5000/x@y"),
        ("http://[::1]:5000/x@y", "http://[::1]:5000/x@y"),
        ("sqlite:////home/ada@work/mlflow.db", "sqlite:////home/ada@work/mlflow.db"),
        ("models:/gan-generator@champion", "models:/gan-generator@champion"),
        ("ada@example.org, tokens=3", "ada@example.org, tokens=3"),
    ],
)
def test_what_stands_for_a_password_is_hidden_and_nothing_else(text, shown):
    assert redacted(text) == shown


def test_a_password_that_a_driver_took_out_of_its_address_is_hidden():
    """Kills: an address's own password looked for in addresses only; its quoted form alone."""
    uri = "postgresql://ada:p%40ssword@host/db?password=other1"
    assert redacted("login of ada with p@ssword failed (p%40ssword, other1)", of=uri) == "login of ada with *** failed (***, ***)"
