"""IMAP by imaplib: work.py HOST PORT Implicit|Plain|StartTls CA USER PASSWORD"""

import imaplib
import os
import ssl
import sys

host, port, channel, ca, user, password = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
imaplib._MAXLINE = 10_000_000


def connect():
    if channel == "Implicit":
        return imaplib.IMAP4_SSL(host, int(port), ssl_context=context, timeout=60)
    connection = imaplib.IMAP4(host, int(port), timeout=60)
    if channel == "StartTls":
        ok(connection.starttls(context))
    return connection


def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]


def fetch_all(connection, folder):
    os.makedirs(folder)
    messages = []
    for number in ok(connection.search(None, "ALL"))[0].split():
        message = ok(connection.fetch(number, "(BODY.PEEK[])"))[0][1]
        with open(f"{folder}/{number.decode()}", "wb") as file:
            file.write(message)
        messages.append(message)
    return messages


m = connect()
try:
    m.login(user, "wrong")
except imaplib.IMAP4.error as refused:
    assert "AUTHENTICATIONFAILED" in str(refused), refused
else:
    raise AssertionError("a wrong password was taken")
ok(m.login(user, password))
assert ok(m.select("INBOX")) == [b"3"]
messages = fetch_all(m, "fetched")
ok(m.create("Copies"))
for message in messages:
    ok(m.append("Copies", r"(\Seen $Kept)", '"01-Jan-2026 00:00:00 +0000"', message))
assert ok(m.search(None, "SUBJECT", '"ordinary"')) == [b"1"]
ok(m.copy("1", "Copies"))
ok(m.store("1", "+FLAGS", r"(\Deleted)"))
assert ok(m.expunge()) == [b"1"]
ok(m.close())
assert m.logout()[0] == "BYE"

m = connect()
ok(m.authenticate("PLAIN", lambda _: b"\0" + user.encode() + b"\0" + password.encode()))
assert ok(m.select("Copies")) == [b"4"]
assert ok(m.search(None, "KEYWORD", "$Kept", "SEEN")) == [b"1 2 3"]
ok(m.store("4", "+FLAGS", r"(\Deleted)"))
ok(m.expunge())
fetch_all(m, "appended")
ok(m.close())
ok(m.delete("Copies"))
assert m.logout()[0] == "BYE"
