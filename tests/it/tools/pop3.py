"""POP3 by poplib: work.py HOST PORT Implicit|Plain|StartTls CA USER PASSWORD"""

import os
import poplib
import ssl
import sys

host, port, channel, ca, user, password = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
poplib._MAXLINE = 100_000


def connect():
    if channel == "Implicit":
        return poplib.POP3_SSL(host, int(port), context=context, timeout=60)
    connection = poplib.POP3(host, int(port), timeout=60)
    if channel == "StartTls":
        ok(connection.stls(context))
    return connection


def ok(answer):
    assert answer.startswith(b"+OK"), answer


m = connect()
assert "STLS" in m.capa() or channel != "Plain"
m.user(user)
try:
    m.pass_("wrong")
except poplib.error_proto as refused:
    assert "[AUTH]" in str(refused), refused
else:
    raise AssertionError("a wrong password was taken")
m.user(user)
ok(m.pass_(password))
count, size = m.stat()
assert count == 3
os.makedirs("fetched")
total = 0
for number in range(1, count + 1):
    answer, lines, _ = m.retr(number)
    ok(answer)
    message = b"".join(line + b"\r\n" for line in lines)
    total += len(message)
    with open(f"fetched/{number}", "wb") as file:
        file.write(message)
    answer, lines, _ = m.top(number, 1)
    head = message.index(b"\r\n\r\n") + 4
    assert b"\r\n".join(lines) + b"\r\n" == message[: message.index(b"\r\n", head) + 2]
assert total == size, (total, size)
assert len({line.split()[1] for line in m.uidl()[1]}) == 3
ok(m.dele(1))
ok(m.rset())
ok(m.dele(2))
ok(m.quit())

m = connect()
m.user(user)
ok(m.pass_(password))
assert m.stat()[0] == 2
ok(m.quit())
